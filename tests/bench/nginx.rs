//! nginx as a reverse proxy with kept upstream connections and one worker: what forwarding is compared with.

use crate::place::{Place, Server};
use anyhow::Result;
use imds_guard_tests::AZURE_IMDS;
use std::fs;
use std::path::Path;

/// Where it listens.
pub(crate) const ADDRESS: &str = "127.0.0.1:8082";

/// Start it. It writes one line per request, in batches, as the agent does.
pub(crate) fn start(place: &Place<'_>) -> Result<Server> {
    let prefix = place.world.directory().join("nginx");
    fs::create_dir_all(&prefix)?;
    let file = prefix.join("nginx.conf");
    fs::write(&file, configuration(&prefix))?;
    let (prefix, file) = (prefix.to_string_lossy(), file.to_string_lossy());
    place.serve(Path::new("nginx"), &["-p", &prefix, "-c", &file], ADDRESS)
}

fn configuration(prefix: &Path) -> String {
    let at = prefix.display();
    format!(
        "daemon off;
worker_processes 1;
pid {at}/nginx.pid;
error_log {at}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log {at}/access.log combined buffer=32k flush=1s;
    client_body_temp_path {at}/body;
    proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi;
    scgi_temp_path {at}/scgi;
    keepalive_requests 100000000;
    upstream azure {{
        server {AZURE_IMDS};
        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen {ADDRESS};
        location / {{
            proxy_pass http://azure;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host 169.254.169.254;
        }}
    }}
}}
"
    )
}

"""Stands where Azure's wireserver and its host plugin stand; keeps what they were asked, a line each, in the file that is named."""
import http.server
import sys
import threading

VERSIONS = """<?xml version="1.0" encoding="utf-8"?>
<Versions><Preferred><Version>2015-04-05</Version></Preferred><Supported><Version>2015-04-05</Version><Version>2012-11-30</Version></Supported></Versions>"""
GOAL = """<?xml version="1.0" encoding="utf-8"?>
<GoalState><Version>2012-11-30</Version><Incarnation>1</Incarnation><Container><ContainerId>c</ContainerId>
<RoleInstanceList><RoleInstance><InstanceId>i</InstanceId></RoleInstance></RoleInstanceList></Container></GoalState>"""
log = open(sys.argv[1], "a", buffering=1)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(f"{self.server.server_address[1]} {self.command} {self.path}", file=log)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = VERSIONS
        if "goalstate" in self.path:
            body = GOAL
        elif self.path == "/versions":
            body = '["2015-09-01"]'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


servers = [http.server.ThreadingHTTPServer(("168.63.129.16", port), Answer) for port in (80, 32526)]
print("ready", file=log)
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()

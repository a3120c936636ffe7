//! `bare_hyper ADDRESS:PORT ANSWER`: hyper alone, one thread, the same answer to everything. What bench compares with.
//!
//! ANSWER is a file with an answer as it came from the agent, head and body: same headers, same bytes, so that the ratio
//! is of what is done for an answer, not of its size. The headers that hyper writes itself are left to it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, service::service_fn};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::net::{TcpListener, TcpStream};

/// Written by hyper (or, `connection`, decided by it).
const HYPERS_OWN: [&str; 3] = ["date", "content-length", "connection"];

#[derive(Clone)]
struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(file)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: bare_hyper ADDRESS:PORT ANSWER")
    };
    let answer = Answer::read(&file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, accept(&address, answer))
}

async fn accept(address: &str, answer: Answer) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("bind {address}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(serve(stream, answer.clone()));
    }
}

async fn serve(stream: TcpStream, answer: Answer) -> Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(|_: Request<Incoming>| std::future::ready(answer.response()));
    // Callers that reset their connection are part of the load.
    Ok(hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?)
}

impl Answer {
    fn read(file: &str) -> Result<Self> {
        let bytes = std::fs::read(file).with_context(|| file.to_owned())?;
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.context("an answer without the end of its head")?;
        let mut headers = HeaderMap::new();
        for line in std::str::from_utf8(&bytes[..end])?.lines().skip(1) {
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            let name: HeaderName = name.parse()?;
            if !HYPERS_OWN.contains(&name.as_str()) {
                headers.append(name, HeaderValue::from_str(value.trim())?);
            }
        }
        let body = Bytes::copy_from_slice(&bytes[end + 4..]);
        Ok(Self { headers, body })
    }

    fn response(&self) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut response = Response::new(Full::new(self.body.clone()));
        response.headers_mut().clone_from(&self.headers);
        Ok(response)
    }
}

//! Both ends of HTTP: a server by `tiny_http`, and as much of a client as asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tiny_http::{Header, Method, Request, Response};

use super::Exposed;
use crate::{Error, Result};

/// A server on a thread of its own, until it is dropped. Whoever reaches its address can read the figures, and no more.
pub struct Server {
    http: Arc<tiny_http::Server>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `exposed` at `http://ADDRESS/metrics`; port 0 lets the system choose one.
    ///
    /// # Errors
    /// [`Error::Metrics`] when the address can not be listened on.
    pub fn start(address: SocketAddr, exposed: Exposed) -> Result<Self> {
        let refuse = |why: String| Error::Metrics { address, why };
        let http = tiny_http::Server::http(address).map_err(|error| refuse(error.to_string()))?;
        let address = http.server_addr().to_ip().unwrap_or(address);
        let http = Arc::new(http);
        let thread = std::thread::Builder::new().name("stillwire-metrics".into()).spawn({
            let http = http.clone();
            move || http.incoming_requests().for_each(|request| answer(request, &exposed))
        });
        let thread = Some(thread.map_err(|error| refuse(error.to_string()))?);
        tracing::info!(%address, "metrics are served");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics are served to all who can reach that address, unasked and in the clear; 127.0.0.1 is for this machine only");
        }
        Ok(Self { http, address, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.http.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(request: Request, exposed: &Exposed) {
    let path = request.url().split('?').next();
    let (status, kind, body) = match (request.method(), path) {
        (Method::Get | Method::Head, Some("/metrics")) => {
            (200, "text/plain; version=0.0.4; charset=utf-8", exposed.text())
        }
        (Method::Get | Method::Head, _) => (404, "text/plain", "the figures are at /metrics\n".into()),
        _ => (405, "text/plain", "only GET is served\n".into()),
    };
    let kind = Header::from_bytes("Content-Type", kind).expect("constants of ASCII");
    // Who asked may have gone.
    let _ = request.respond(Response::from_string(body).with_status_code(status).with_header(kind));
}

/// Asks a program's server for its figures.
///
/// # Errors
/// [`Error::NoMetrics`].
pub fn fetch(address: SocketAddr) -> Result<String> {
    let refuse = |why: String| Error::NoMetrics { address, why };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // By HTTP/1.0 the answer comes in one piece, and ends with the connection.
        // In one piece, too: what a server that closes has not read yet resets the connection, and takes its answer with it.
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(MOST).read_to_string(&mut answer).map(|_| answer)
    };
    let answer = ask().map_err(|error| refuse(error.to_string()))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(refuse(format!("it answers '{}'", answer.lines().next().unwrap_or_default()))),
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, bytes.
const MOST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::metrics::{Metrics, SenderFigures, value};

    fn server() -> Server {
        let metrics = Arc::new(Metrics::default());
        metrics.sender.store(SenderFigures { resent: 9, ..Default::default() });
        metrics.end();
        let exposed = Exposed { metrics, cache: None, program: "test", on: String::new() };
        Server::start("127.0.0.1:0".parse().unwrap(), exposed).unwrap()
    }

    fn talk(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{request} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn figures_are_served_at_their_path_only_and_not_after_the_end() {
        let server = server();
        let address = server.address();
        assert_eq!(value(&fetch(address).unwrap(), "stillwire_resent_frames_total"), Some(9.0));
        let whole = talk(address, "GET /metrics?x=1");
        assert!(whole.contains("Content-Type: text/plain; version=0.0.4"), "{whole}");
        assert!(talk(address, "GET /").contains(" 404 ") && talk(address, "POST /metrics").contains(" 405 "));
        let taken = Server::start(
            address,
            Exposed { metrics: Arc::default(), cache: None, program: "test", on: String::new() },
        );
        assert!(taken.is_err_and(|error| error.to_string().contains("--metrics")));
        drop(server);
        let gone = fetch(address).unwrap_err().to_string();
        assert!(gone.contains("--metrics"), "{gone}");
    }

    #[test]
    fn what_is_no_server_of_ours_is_said_to_be_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1000]);
            stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n").unwrap();
        });
        let said = fetch(address).unwrap_err().to_string();
        assert!(said.contains("404 Not Found"), "{said}");
        other.join().unwrap();
    }
}

//! `headgate healthcheck`: for container images, which have no other HTTP client in them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow};

use super::{Failure, block_on};
use crate::config::{Flags, Settings, local_url};

/// Below the usual limit of a container engine, so that the answer is ours.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Flags,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = Settings::load_without_keys(&arguments.settings)?;
    ask(settings.listen)
}

fn ask(listen: SocketAddr) -> Result<(), Failure> {
    let mut url = local_url(listen);
    url.set_path("/readyz");
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().context("making an HTTP client")?;
    let answer = block_on(async { client.get(url.clone()).send().await })?.context("the gateway does not answer")?;
    if answer.status().is_success() { Ok(()) } else { Err(anyhow!("{url} answers {}", answer.status()).into()) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A server that answers one request.
    fn answering(status: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned()
        });
        (address, server)
    }

    #[test]
    fn only_a_ready_gateway_is_healthy() {
        let (address, server) = answering("200 OK");
        ask(address).unwrap();
        assert_eq!(server.join().unwrap(), "GET /readyz HTTP/1.1");

        let (address, server) = answering("503 Service Unavailable");
        assert!(matches!(ask(address), Err(Failure::Failed(_))));
        server.join().unwrap();

        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(ask(nobody), Err(Failure::Failed(_))));
    }
}

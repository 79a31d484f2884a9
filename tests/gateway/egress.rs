//! Without an exception of the operator's, nothing reaches the gateway's own machine or network.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use headgate::vendors::{registry::VENDORS, sandbox::DemoConnection};
use serde_json::json;

use crate::support::{Setup, TestGateway};

/// Counts connections to an address of this machine; `None` when the machine has no such address.
fn bait(address: &str) -> Option<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind(address).ok()?;
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let seen = count.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            seen.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    Some((address, count))
}

async fn point_to(gateway: &TestGateway, account: &DemoConnection, base_url: &str) {
    let mut body = account.body.clone();
    body["settings"]["base_url"] = json!(base_url);
    let answer = gateway.put(&format!("/v1/connections/{}", account.name), &body).await;
    assert!(answer.status.is_success(), "{base_url}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_private_address_is_connected_to() {
    let gateway = Setup::default().flags(|flags| flags.egress_allow = None).start().await;
    let (v4, v4_count) = bait("127.0.0.1:0").unwrap();
    // On the same port, so that every name for this machine would find somebody.
    let v6 = bait(&format!("[::1]:{}", v4.port()));
    let port = v4.port();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ];
    for spec in VENDORS {
        let account = gateway.account(spec.name);
        for host in hosts {
            point_to(&gateway, &account, &format!("http://{host}:{port}/{}", spec.name)).await;
            let checked = gateway.post(&format!("/v1/connections/{}/check", account.name), &json!({})).await.json();
            assert_eq!(checked["health"], "unhealthy", "{host}: {checked:#}");
            let detail = checked["health_detail"].as_str().unwrap();
            assert!(detail.starts_with("egress_blocked: "), "{host}: {detail}");

            let export = gateway.run(&TestGateway::everybody(&account)).await;
            assert_eq!(export["error"]["code"], "egress_blocked", "{host}: {export:#}");
            assert_eq!(export["error"]["category"], "policy", "{host}: {export:#}");
        }
    }
    assert_eq!(v4_count.load(Ordering::SeqCst), 0);
    assert_eq!(v6.map_or(0, |(_, count)| count.load(Ordering::SeqCst)), 0);
    assert_eq!(gateway.sandbox.world().activity("braze").polls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_for_one_network_opens_no_other() {
    let gateway = Setup::default().flags(|flags| flags.egress_allow = Some("127.0.0.1/32".into())).start().await;
    let (address, count) = bait("127.0.0.2:0").unwrap();
    let account = gateway.account("growingio_cdp");
    point_to(&gateway, &account, &format!("http://{address}/")).await;
    let export = gateway.run(&TestGateway::everybody(&account)).await;
    assert_eq!(export["error"]["code"], "egress_blocked", "{export:#}");
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

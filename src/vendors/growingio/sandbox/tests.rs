mod analyses;
mod lists;
mod raw;
mod tokens;
mod troubles;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::*;
use crate::vendors::sandbox::{
    Activity, Sandbox, SandboxConfig,
    tests::{faults, quick, until},
};

/// A client of the simulator.
struct Api {
    sandbox: Sandbox,
    http: Client,
}

impl Api {
    /// Without a limit of calls in a second.
    async fn start(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let sandbox = quick(|config| {
            config.requests_per_second = 0.0;
            change(config);
        });
        Self { sandbox: sandbox.await, http }
    }

    async fn with(names: &[&str]) -> Self {
        Self::start(|config| config.faults = faults(names)).await
    }

    fn world(&self) -> &Arc<World> {
        self.sandbox.world()
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.vendor_url(NAME))
    }

    fn request(&self, path: &str) -> RequestBuilder {
        self.http.get(self.at(path)).header("authorization", TOKEN).header("x-client-id", CLIENT_ID)
    }

    async fn get(&self, path: &str) -> Response {
        self.request(path).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// Opens a link, which knows nothing of tokens.
    async fn open(&self, link: &str) -> Response {
        self.http.get(link).send().await.unwrap()
    }

    fn activity(&self) -> Activity {
        self.world().activity(NAME)
    }

    fn set_faults(&self, names: &[&str]) {
        self.world().set_faults(faults(names));
    }

    #[track_caller]
    fn assert_no_violations(&self) {
        assert_eq!(self.activity().violations, Vec::<String>::new());
    }
}

/// Reads csv with quotes and backslash escapes.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut chars) = (false, text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => cell.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    assert!(!quoted && cell.is_empty() && row.is_empty(), "the text breaks off");
    rows
}

//! Logs to standard error, traces to an OTLP collector if one is named, panics to the log.

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    panic,
    sync::Arc,
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::error;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use url::Url;

use crate::config::{LogFormat, Settings};

/// How long a collector may take for one batch; also the most that the last one delays our end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why logs or traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("logging is set up already")]
    SetUpAlready(#[from] tracing_subscriber::util::TryInitError),
    #[error("the exporter of traces cannot be made")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the thread that exports traces cannot start")]
    Thread(#[from] io::Error),
}

/// Keeps telemetry going. Dropping it sends what is still waiting.
#[must_use = "traces end when it is dropped"]
pub struct Guard {
    traces: Option<(SdkTracerProvider, Runtime)>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some((provider, runtime)) = self.traces.take() else { return };
        if let Err(failure) = provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            error!(error = %failure, "the last traces were not delivered");
        }
        runtime.shutdown_background();
    }
}

/// Sets up logs, traces and the panic hook, once for a process.
///
/// # Errors
/// See [`Error`]; a collector that does not answer is none.
pub fn init(settings: &Settings) -> Result<Guard, Error> {
    let format = settings
        .log_format
        .unwrap_or_else(|| if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    // The filter parsed when the settings were read; the default only spares a second error path.
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.compact().with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let traces = settings.otlp_endpoint.as_ref().map(traces).transpose()?;
    let spans =
        traces.as_ref().map(|(provider, _)| tracing_opentelemetry::layer().with_tracer(provider.tracer("headgate")));
    tracing_subscriber::registry().with(filter).with(lines).with(spans).try_init()?;
    log_panics();
    Ok(Guard { traces })
}

fn traces(collector: &Url) -> Result<(SdkTracerProvider, Runtime), Error> {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("otlp").enable_all().build()?;
    let exporter = {
        let _inside = runtime.enter();
        opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces_url(collector))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?
    };
    let exporter = OnRuntime { inner: Arc::new(exporter), runtime: runtime.handle().clone() };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(
            Resource::builder()
                .with_service_name("headgate")
                .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build(),
        )
        .build();
    Ok((provider, runtime))
}

/// The collector's address for traces, below its base as the OTLP specification says.
fn traces_url(collector: &Url) -> String {
    let base = collector.as_str().trim_end_matches('/');
    if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") }
}

/// Batches are sent from a thread of the SDK's own, where the asynchronous HTTP client finds no runtime: it runs on
/// this one.
#[derive(Debug)]
struct OnRuntime {
    inner: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
}

impl SpanExporter for OnRuntime {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let inner = Arc::clone(&self.inner);
        let sent = self.runtime.spawn(async move { inner.export(batch).await });
        async move { sent.await.unwrap_or_else(|failure| Err(OTelSdkError::InternalFailure(failure.to_string()))) }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

/// One log line for a panic, in the log's own format, instead of free text on standard error.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        error!(panic.message = message, panic.location = location, thread = thread.name(), "panic");
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use opentelemetry::trace::Tracer as _;

    use super::*;

    #[test]
    fn the_traces_path_is_added_once() {
        for (given, used) in [
            ("http://otel:4318", "http://otel:4318/v1/traces"),
            ("http://otel:4318/", "http://otel:4318/v1/traces"),
            ("http://otel:4318/base", "http://otel:4318/base/v1/traces"),
            ("http://otel:4318/v1/traces", "http://otel:4318/v1/traces"),
        ] {
            assert_eq!(traces_url(&Url::parse(given).unwrap()), used);
        }
    }

    #[test]
    fn spans_reach_the_collector_before_the_guard_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let collector = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(9).any(|window| window == b"test.span") {
                let read = stream.read(&mut buffer).unwrap();
                assert_ne!(read, 0, "the connection ended before the span came");
                request.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            request
        });
        let (provider, runtime) = traces(&url).unwrap();
        provider.tracer("t").in_span("test.span", |_| {});
        drop(Guard { traces: Some((provider, runtime)) });
        let request = collector.join().unwrap();
        assert!(request.starts_with(b"POST /v1/traces HTTP/1.1"));
    }
}

//! The pages of `docs/problems`, one for each code, built into the binary.

use crate::exports::problem::Code;

macro_rules! pages {
    ($($code:ident $file:literal)*) => {
        /// The page of a code, as it lies in `docs/problems`.
        pub const fn markdown(code: Code) -> &'static str {
            // A new code without a page does not compile.
            match code {
                $(Code::$code => include_str!(concat!("../../docs/problems/", $file, ".md")),)*
            }
        }

        #[cfg(test)]
        const FILES: &[(Code, &str)] = &[$((Code::$code, $file),)*];
    };
}

pages! {
    InvalidRequest "invalid_request"
    Unauthenticated "unauthenticated"
    Forbidden "forbidden"
    NotFound "not_found"
    MethodNotAllowed "method_not_allowed"
    NotAcceptable "not_acceptable"
    PayloadTooLarge "payload_too_large"
    UnsupportedMediaType "unsupported_media_type"
    RangeNotSatisfiable "range_not_satisfiable"
    DatasetNotSupported "dataset_not_supported"
    UnknownConnection "unknown_connection"
    ConnectionInUse "connection_in_use"
    UnknownDestination "unknown_destination"
    DestinationInUse "destination_in_use"
    NameTaken "name_taken"
    EndpointDisabled "endpoint_disabled"
    IdempotencyKeyReused "idempotency_key_reused"
    IdempotencyKeyInFlight "idempotency_key_in_flight"
    ExportNotFinished "export_not_finished"
    ExportAlreadyFinished "export_already_finished"
    ResultExpired "result_expired"
    LinkExpired "link_expired"
    MultipleFiles "multiple_files"
    RateLimited "rate_limited"
    VendorCredentialsRejected "vendor_credentials_rejected"
    VendorPermissionDenied "vendor_permission_denied"
    VendorRejectedRequest "vendor_rejected_request"
    VendorUnavailable "vendor_unavailable"
    VendorDataNotFound "vendor_data_not_found"
    VendorStalled "vendor_stalled"
    VendorLinkExpired "vendor_link_expired"
    VendorMalformedData "vendor_malformed_data"
    ArchiveLimitExceeded "archive_limit_exceeded"
    EgressBlocked "egress_blocked"
    DeadlineExceeded "deadline_exceeded"
    DeliveryFailed "delivery_failed"
    ServiceUnavailable "service_unavailable"
    Internal "internal"
}

/// The page as a small HTML document.
pub fn html(code: Code) -> String {
    let blocks = markdown(code).split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    let element = |block: &str| {
        let (tag, text) = match block.split_once(' ') {
            Some(("#", text)) => ("h1", text),
            Some(("##", text)) => ("h2", text),
            _ => ("p", block),
        };
        format!("<{tag}>{}</{tag}>\n", inline(text))
    };
    let body = blocks.map(element).collect::<Vec<_>>().concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}}\
         code{{background:#f3f3f3;padding:0 .25em}}</style></head><body>\n{body}</body></html>\n",
        title = code.title(),
    )
}

/// Escapes text and turns `` `code` `` into an element.
fn inline(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let parts = text.split('`').enumerate();
    let element = |(index, part): (usize, &str)| {
        if index % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }
    };
    parts.map(element).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_page_with_meaning_remedy_and_retry() {
        assert_eq!(FILES.len(), Code::ALL.len());
        for (code, file) in FILES {
            assert_eq!(code.as_str(), *file);
            let page = markdown(*code);
            assert!(page.starts_with(&format!("# {}\n", code.title())), "{file}");
            assert!(page.contains(&format!("`{file}`")), "{file}");
            for part in ["## Meaning", "## What to do", "## Retry"] {
                assert!(page.contains(part), "{file}: {part}");
            }
            assert_eq!(page.contains("## Retry\n\nNo."), !code.retryable(), "{file}");
        }
    }

    #[test]
    fn markdown_becomes_html_with_nothing_left_open() {
        assert_eq!(inline("a `b` <c>"), "a <code>b</code> &lt;c&gt;");
        let page = html(Code::NotFound);
        assert!(page.contains("<h1>There is no such thing here</h1>") && page.contains("<h2>Retry</h2>"));
    }
}

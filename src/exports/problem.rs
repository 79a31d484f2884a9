//! Everything that can go wrong, as one closed list of codes, and the RFC 9457 object that carries one.
//! The same object is an API answer and the `error` of a failed export.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The caller: the request is wrong as it stands.
    Request,
    /// The platform team: the caller may not do this.
    Policy,
    /// The vendor, or the vendor account behind the connection.
    Vendor,
    /// Headgate or what it runs on.
    Gateway,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $code:literal $status:literal $category:ident $retryable:literal $title:literal;)*) => {
        /// A stable, machine-readable name of what went wrong. `/problems/{code}` explains each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in JSON and in URLs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status a problem of this code has unless the place that makes it says otherwise.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            pub const fn category(self) -> Category {
                match self { $(Self::$variant => Category::$category,)* }
            }

            /// Whether the same request can succeed later without a change.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            /// A short, constant summary in English.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 422 Request false "The request is not valid";
    Unauthenticated "unauthenticated" 401 Request false "A valid bearer token is needed";
    Forbidden "forbidden" 403 Policy false "The token does not allow this";
    NotFound "not_found" 404 Request false "There is no such thing here";
    MethodNotAllowed "method_not_allowed" 405 Request false "The method is not allowed here";
    NotAcceptable "not_acceptable" 406 Request false "No acceptable representation";
    PayloadTooLarge "payload_too_large" 413 Request false "The body is too large";
    UnsupportedMediaType "unsupported_media_type" 415 Request false "The media type is not supported";
    RangeNotSatisfiable "range_not_satisfiable" 416 Request false "The range lies outside the file";
    DatasetNotSupported "dataset_not_supported" 422 Request false "The vendor has no such dataset";
    UnknownConnection "unknown_connection" 422 Request false "There is no such connection";
    ConnectionInUse "connection_in_use" 409 Request true "The connection has unfinished exports";
    UnknownDestination "unknown_destination" 422 Request false "There is no such destination";
    DestinationInUse "destination_in_use" 409 Request true "The destination has unfinished exports";
    NameTaken "name_taken" 409 Request false "The name is taken";
    EndpointDisabled "endpoint_disabled" 409 Request false "The webhook endpoint is disabled";
    IdempotencyKeyReused "idempotency_key_reused" 422 Request false "The idempotency key belongs to another request";
    IdempotencyKeyInFlight "idempotency_key_in_flight" 409 Request true "The first request with this key is still running";
    ExportNotFinished "export_not_finished" 409 Request true "The export has not finished";
    ExportAlreadyFinished "export_already_finished" 409 Request false "The export has already finished";
    ResultExpired "result_expired" 410 Request false "The result is no longer kept";
    LinkExpired "link_expired" 410 Request false "The link has expired";
    MultipleFiles "multiple_files" 409 Request false "The result has several files";
    RateLimited "rate_limited" 429 Request true "Too many requests";
    VendorCredentialsRejected "vendor_credentials_rejected" 502 Vendor false "The vendor rejected the connection's credentials";
    VendorPermissionDenied "vendor_permission_denied" 502 Vendor false "The connection's credentials lack a permission at the vendor";
    VendorRejectedRequest "vendor_rejected_request" 502 Vendor false "The vendor rejected the request";
    VendorUnavailable "vendor_unavailable" 503 Vendor true "The vendor could not be reached or failed";
    VendorDataNotFound "vendor_data_not_found" 502 Vendor false "The vendor has no such data";
    VendorStalled "vendor_stalled" 504 Vendor true "The vendor made no progress";
    VendorLinkExpired "vendor_link_expired" 502 Vendor true "The vendor's download link expired";
    VendorMalformedData "vendor_malformed_data" 502 Vendor true "The vendor sent data that cannot be read";
    ArchiveLimitExceeded "archive_limit_exceeded" 502 Vendor false "The vendor's archive exceeds a safety limit";
    EgressBlocked "egress_blocked" 502 Policy false "The address may not be reached";
    DeadlineExceeded "deadline_exceeded" 504 Vendor true "The deadline passed before the export finished";
    DeliveryFailed "delivery_failed" 503 Gateway true "The result could not be stored";
    ServiceUnavailable "service_unavailable" 503 Gateway true "Headgate is not ready";
    Internal "internal" 500 Gateway true "Headgate failed";
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) into the request body, `""` for the body itself.
    #[schema(example = "/parameters/fields/2")]
    pub pointer: String,
    /// What is wrong with it.
    #[schema(example = "unknown_field")]
    pub code: String,
    pub detail: String,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code: code.into(), detail: detail.into() }
    }
}

/// The vendor's part in a failure, sanitized: no link, no credential, no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VendorBlame {
    #[schema(example = "braze")]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An RFC 9457 problem, served as `application/problem+json`; also the `error` of a failed export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A page of this gateway that explains the code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid_request")]
    pub kind: String,
    pub title: String,
    /// The HTTP status of the answer; on an export's `error`, the status a synchronous API would have answered.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The id of the request this answers; absent on an export's `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub code: Code,
    pub category: Category,
    /// Whether the same request can succeed later without a change.
    pub retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_secs: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<VendorBlame>,
}

impl Problem {
    /// A problem with everything the code implies.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{}", code.as_str()),
            title: code.title().into(),
            status: code.status(),
            detail: Some(detail.into()),
            instance: None,
            code,
            category: code.category(),
            retryable: code.retryable(),
            retry_after_secs: None,
            errors: Vec::new(),
            vendor: None,
        }
    }

    /// A request that cannot be understood or is not possible, with the fields to blame.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map_or_else(String::new, |error| {
            let place = if error.pointer.is_empty() { "the body" } else { &error.pointer };
            format!("{place}: {}", error.detail)
        });
        Self { errors, ..Self::new(Code::InvalidRequest, detail) }
    }

    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    #[must_use]
    pub fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    #[must_use]
    pub fn with_vendor(self, vendor: VendorBlame) -> Self {
        Self { vendor: Some(vendor), ..self }
    }

    #[must_use]
    pub fn with_retry_after_secs(self, secs: u64) -> Self {
        Self { retry_after_secs: Some(secs), ..self }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail.as_deref().unwrap_or(&self.title))
    }
}

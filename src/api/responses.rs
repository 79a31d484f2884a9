//! The failing answers that operations document: each name stands for the statuses that one kind of check can give.

use std::collections::BTreeMap;

use serde_json::to_value;
use utoipa::{
    IntoResponses,
    openapi::{
        Content, Header, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder,
        content::ContentBuilder,
        header::HeaderBuilder,
        schema::{SchemaType, Type},
    },
};

use crate::exports::problem::{Code, FieldError, Problem};

macro_rules! failing {
    ($($(#[$doc:meta])* $name:ident { $($status:literal $code:ident $description:literal;)* })*) => {
        $(
            $(#[$doc])*
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    BTreeMap::from([$(($status.to_string(), failing($status, Code::$code, $description).into()),)*])
                }
            }
        )*
    };
}

failing! {
    /// The token is missing or not good.
    Unauthenticated {
        401 Unauthenticated "There is no good bearer token.";
    }
    /// The token is missing, not good, or lacks the scope.
    Denied {
        401 Unauthenticated "There is no good bearer token.";
        403 Forbidden "The token does not allow this.";
    }
    /// The path names nothing the caller may see.
    Absent {
        404 NotFound "There is no such thing, or it is not yours.";
    }
    /// The query string or a header cannot be read.
    BadQuery {
        400 InvalidRequest "The query or a header is malformed.";
    }
    /// The body or its parameters are not right.
    BadBody {
        400 InvalidRequest "The body, the query or a header is malformed.";
        413 PayloadTooLarge "The body has more than 1 MiB.";
        415 UnsupportedMediaType "The body is not declared as JSON.";
        422 InvalidRequest "The request makes no sense; `errors` points at the fields. Also `dataset_not_supported`, `unknown_connection`, `unknown_destination` and `idempotency_key_reused`.";
    }
    /// The body is too large.
    TooLarge {
        400 InvalidRequest "The body broke off.";
        413 PayloadTooLarge "The body has more than 64 KiB.";
    }
    /// What the request of an earlier export named may be gone.
    NoLongerPossible {
        422 UnknownConnection "The export's connection, destination or dataset is no longer there.";
    }
    /// A request with the same key is at it.
    KeyInFlight {
        409 IdempotencyKeyInFlight "The first request with this `Idempotency-Key` is still running.";
    }
    /// It has ended.
    ExportFinished {
        409 ExportAlreadyFinished "The export has succeeded or failed.";
    }
    /// It has not ended.
    ExportUnfinished {
        409 ExportNotFinished "The export has not finished.";
    }
    /// There is nothing to read yet, or any more.
    NotReadable {
        409 ExportNotFinished "The export has not succeeded.";
        410 ResultExpired "The files are no longer kept.";
    }
    /// There is nothing to read yet, or any more, or not as one stream.
    NotOneStream {
        406 NotAcceptable "`Accept-Encoding` leaves none of `gzip`, `zstd` and `identity`.";
        409 ExportNotFinished "The export has not succeeded; or `multiple_files`: they cannot be joined.";
        410 ResultExpired "The files are no longer kept.";
    }
    /// The link led somewhere once.
    LinkGone {
        410 LinkExpired "The link has expired; or `result_expired`: the file is no longer kept.";
    }
    /// The file has no such bytes.
    NoSuchRange {
        416 RangeNotSatisfiable "The range lies outside the file; `Content-Range` tells its size.";
    }
    /// The connection is needed as it is.
    InUse {
        409 ConnectionInUse "Exports run over the connection, or its vendor would change.";
    }
    /// The destination is needed.
    DestinationBusy {
        409 DestinationInUse "Exports are on their way to the destination.";
    }
    /// Another schedule has the name.
    NameInUse {
        409 NameTaken "There is a schedule of this name already.";
    }
    /// Nothing is sent to it.
    NotEnabled {
        409 EndpointDisabled "The endpoint is disabled; enable it first.";
    }
    /// The vendor gave no usable answer.
    VendorAtFault {
        502 VendorCredentialsRejected "The vendor refused; `code` says why.";
    }
    /// The vendor has no room or does not answer.
    VendorBusy {
        503 VendorUnavailable "The vendor cannot be asked now; try again after `Retry-After`.";
        504 VendorStalled "The vendor did not answer in time.";
    }
    /// Something Headgate needs does not answer.
    NotReady {
        503 ServiceUnavailable "The database or the object store does not answer.";
    }
    /// Any operation can fail so.
    Failed {
        500 Internal "Headgate failed; the log has why under the request's id.";
    }
    /// Any operation that needs the database can fail so.
    Unavailable {
        503 ServiceUnavailable "The database cannot be reached; try again after `Retry-After`.";
    }
}

/// One failing answer: a problem with an example, and the headers that come with its status.
fn failing(status: u16, code: Code, description: &str) -> Response {
    let mut response =
        ResponseBuilder::new().description(description).content("application/problem+json", problem(status, code));
    let headers: &[(&str, Type, &str)] = match status {
        401 | 403 => &[("WWW-Authenticate", Type::String, "What is missing, as in RFC 6750.")],
        416 => &[("Content-Range", Type::String, "`bytes */` and the size of the file.")],
        503 => &[("Retry-After", Type::Integer, "Seconds after which to try again.")],
        _ => &[],
    };
    for (name, kind, description) in headers {
        response = response.header(*name, header(kind.clone(), description));
    }
    response.build()
}

fn header(kind: Type, description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(SchemaType::new(kind)).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

fn problem(status: u16, code: Code) -> Content {
    let mut problem = Problem::new(code, code.title()).with_status(status);
    problem.instance = Some("req_019a5b6c7d8e7f00a1b2c3d4e5f60718".into());
    if status == 422 {
        let error = FieldError::new("/parameters/audience/id", "required", "an audience of this kind needs its id");
        problem = Problem { instance: problem.instance, ..Problem::invalid(vec![error]) };
    }
    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).example(to_value(problem).ok()).build()
}

//! Failing answers: every one is an `application/problem+json` object. Handlers return an [`ApiError`]; the request
//! id is put in at the edge (`super::requests`), where every answer passes.

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
    },
};

use crate::{
    exports::problem::{Code, FieldError, Problem},
    operations,
};

/// What a handler answers.
pub type Answer = Result<HttpResponse, ApiError>;

/// Seconds after which a caller should try again when the database is out of reach.
const RETRY_SECS: u64 = 5;

/// A failing answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{problem}")]
pub struct ApiError {
    problem: Box<Problem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// The request cannot be read: 400.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Problem::new(Code::InvalidRequest, detail).with_status(400).into()
    }

    /// The request can be read but makes no sense: 422.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Problem::invalid(errors).into()
    }

    /// There is no such thing, or it is another tenant's: 404.
    pub fn not_found(what: &str) -> Self {
        Problem::new(Code::NotFound, format!("there is no such {what}")).into()
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Names the request it answers.
    #[must_use]
    pub fn with_instance(mut self, request_id: &str) -> Self {
        self.problem.instance = Some(request_id.to_owned());
        self
    }

    /// A failure that some other part of the server answered with a bare status.
    pub fn from_status(status: StatusCode) -> Self {
        let code = match status.as_u16() {
            401 => Code::Unauthenticated,
            403 => Code::Forbidden,
            404 => Code::NotFound,
            405 => Code::MethodNotAllowed,
            406 => Code::NotAcceptable,
            413 => Code::PayloadTooLarge,
            415 => Code::UnsupportedMediaType,
            416 => Code::RangeNotSatisfiable,
            429 => Code::RateLimited,
            503 => Code::ServiceUnavailable,
            500.. => Code::Internal,
            _ => Code::InvalidRequest,
        };
        Problem { detail: None, ..Problem::new(code, "") }.with_status(status.as_u16()).into()
    }

    #[cfg(test)]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), headers: Vec::new() }
    }
}

impl From<operations::Error> for ApiError {
    /// Refusals are told as they are. Of failures the caller learns that Headgate failed; the log gets the rest.
    fn from(error: operations::Error) -> Self {
        if let operations::Error::Refused(problem) = error {
            return Self { problem, headers: Vec::new() };
        }
        tracing::error!(error = &error as &dyn std::error::Error, "an operation failed");
        match error {
            operations::Error::Store(
                sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_),
            ) => Problem::new(Code::ServiceUnavailable, "the database cannot be reached")
                .with_retry_after_secs(RETRY_SECS)
                .into(),
            _ => {
                Problem::new(Code::Internal, "something went wrong here; the log has it under this request's id").into()
            }
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status_code());
        answer.insert_header((CONTENT_TYPE, "application/problem+json"));
        if let Some(secs) = self.problem.retry_after_secs {
            answer.insert_header((RETRY_AFTER, secs));
        }
        for header in &self.headers {
            answer.insert_header(header.clone());
        }
        answer.json(&*self.problem)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    #[actix_web::test]
    async fn a_failure_of_ours_tells_the_caller_nothing_of_the_database() {
        let error = operations::Error::Store(sqlx::Error::Protocol("password of table x".into()));
        let answer = ApiError::from(error).error_response();
        assert_eq!(answer.status(), 500);
        let body = String::from_utf8(to_bytes(answer.into_body()).await.unwrap().to_vec()).unwrap();
        assert!(body.contains("\"internal\"") && !body.contains("password"), "{body}");
    }

    #[test]
    fn an_unreachable_database_is_503_with_a_pause() {
        let answer = ApiError::from(operations::Error::Store(sqlx::Error::PoolTimedOut)).error_response();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers().get(RETRY_AFTER).unwrap(), "5");
    }

    #[test]
    fn a_refusal_keeps_its_status_and_is_problem_json() {
        let problem = Problem::new(Code::ExportNotFinished, "not yet").with_retry_after_secs(7);
        let answer = ApiError::from(operations::Error::from(problem)).error_response();
        assert_eq!(answer.status(), 409);
        assert_eq!(answer.headers().get(CONTENT_TYPE).unwrap(), "application/problem+json");
        assert_eq!(answer.headers().get(RETRY_AFTER).unwrap(), "7");
    }
}

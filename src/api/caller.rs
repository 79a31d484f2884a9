//! Extractors that let a request in: `Authorized<ExportsRead>` in a handler's arguments is its whole authorisation.

use std::{future::Future, marker::PhantomData, ops::Deref, pin::Pin};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    web::Data,
};
use chrono::{DateTime, Utc};

use super::{
    Edge,
    auth::{Identity, Rejected},
    problem::ApiError,
};
use crate::{
    exports::problem::{Code, Problem},
    operations::Caller,
};

/// What a token must be allowed to do.
pub trait Scope: 'static {
    /// `None`: any good token will do.
    const NAME: Option<&'static str>;
}

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident $scope:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            impl Scope for $name {
                const NAME: Option<&'static str> = $scope;
            }
        )*
    };
}

scopes! {
    /// Any good token.
    AnyScope None;
    ExportsRead Some("exports:read");
    ExportsWrite Some("exports:write");
    ExportsDownload Some("exports:download");
    ConnectionsAdmin Some(CONNECTIONS_ADMIN);
    DestinationsAdmin Some(crate::operations::destinations::ADMIN);
    WebhooksRead Some("webhooks:read");
    WebhooksWrite Some("webhooks:write");
    SchedulesRead Some("schedules:read");
    SchedulesWrite Some("schedules:write");
}

const CONNECTIONS_ADMIN: &str = "connections:admin";

/// A caller whose token is good and has the scope `S`.
#[derive(Debug)]
pub struct Authorized<S> {
    caller: Caller,
    /// When the token stops being good; long answers end then.
    pub expires_at: DateTime<Utc>,
    scope: PhantomData<S>,
}

impl<S> Authorized<S> {
    /// Whether the caller may see and change settings.
    pub fn is_admin(&self) -> bool {
        self.caller.has_scope(CONNECTIONS_ADMIN)
    }

    /// The caller alone, for work that outlives the request's first answer.
    pub fn into_caller(self) -> Caller {
        self.caller
    }
}

impl<S> Deref for Authorized<S> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<S: Scope> FromRequest for Authorized<S> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let edge = request
                .app_data::<Data<Edge>>()
                .ok_or_else(|| ApiError::from(Problem::new(Code::Internal, "the edge is not set up")))?;
            let mut headers = request.headers().get_all(AUTHORIZATION);
            let header = headers.next().map(|value| value.to_str().unwrap_or_default());
            if headers.next().is_some() {
                return Err(refusal(Rejected::Invalid("there is more than one Authorization header")));
            }
            let Identity { caller, expires_at } = edge.auth.authenticate(header).await.map_err(refusal)?;
            let span = tracing::Span::current();
            span.record("caller.subject", caller.subject.as_str());
            span.record("caller.tenant", caller.tenant.as_str());
            match S::NAME {
                Some(scope) if !caller.has_scope(scope) => Err(missing_scope(scope)),
                _ => Ok(Self { caller, expires_at, scope: PhantomData }),
            }
        })
    }
}

fn refusal(rejected: Rejected) -> ApiError {
    let (detail, challenge) = match rejected {
        Rejected::Missing => ("send `Authorization: Bearer <token>`", "Bearer realm=\"headgate\"".to_owned()),
        Rejected::Invalid(why) => {
            (why, format!("Bearer realm=\"headgate\", error=\"invalid_token\", error_description=\"{why}\""))
        }
        Rejected::KeysUnavailable => {
            let problem =
                Problem::new(Code::ServiceUnavailable, "the keys that tokens are checked with cannot be fetched");
            return problem.with_retry_after_secs(5).into();
        }
    };
    with_challenge(Problem::new(Code::Unauthenticated, detail), &challenge)
}

fn missing_scope(scope: &str) -> ApiError {
    let challenge = format!("Bearer realm=\"headgate\", error=\"insufficient_scope\", scope=\"{scope}\"");
    with_challenge(Problem::new(Code::Forbidden, format!("the token lacks the scope `{scope}`")), &challenge)
}

fn with_challenge(problem: Problem, challenge: &str) -> ApiError {
    let error = ApiError::from(problem);
    match HeaderValue::from_str(challenge) {
        Ok(value) => error.with_header(WWW_AUTHENTICATE, value),
        Err(_) => error,
    }
}

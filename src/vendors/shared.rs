//! What the replicas share at a vendor: budgets of calls, and tokens that kill one another. Adapters ask through
//! [`Shared`]; where it is kept is not their business.

use std::{borrow::Cow, fmt, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::VendorError;

/// How many calls an account may make in a window, over all replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whose budget it is, in the vendor's own terms: connections with the same account share it. No secret.
    pub account: Cow<'static, str>,
    /// Names it in `GET …/quota`.
    pub name: &'static str,
    /// What it is spent on, for people.
    pub says: &'static str,
    /// Calls in `window`. Answers of the vendor may correct it, see [`Shared::learn`].
    pub limit: u32,
    pub window: Duration,
    pub pace: Pace,
}

/// How a budget is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Calls are counted in windows that begin with their first call. For large budgets.
    Counted,
    /// No span of `window`, wherever it begins, sees more than `limit` calls arrive: each call holds a place from before
    /// it is sent until `window` after its answer, or longer when none comes. For small budgets; `limit` is at most a few dozen.
    Spaced,
}

/// What a vendor's answer says of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub limit: u32,
    pub remaining: u32,
    pub resets_at: DateTime<Utc>,
}

/// Leave to make one call. Keep it until the answer is there, and say so with [`Permit::answered`].
#[must_use = "the call is to be made while this lives"]
pub struct Permit {
    release: Option<Box<dyn FnOnce(Call) + Send + Sync>>,
    call: Call,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// The vendor answered, so the call has arrived.
    Answered,
    /// Given up, or lost: it may still be on its way, and arrive.
    Abandoned,
}

impl Permit {
    /// `release` is run when the permit is dropped.
    pub fn new(release: impl FnOnce(Call) + Send + Sync + 'static) -> Self {
        Self { release: Some(Box::new(release)), call: Call::Abandoned }
    }

    /// Nothing to give back.
    pub const fn free() -> Self {
        Self { release: None, call: Call::Abandoned }
    }

    /// The vendor has begun to answer.
    pub fn answered(&mut self) {
        self.call = Call::Answered;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release(self.call);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// A token that the vendor issued.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: SecretString,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
}

/// A token in force.
#[derive(Debug, Clone)]
pub struct Token {
    pub token: SecretString,
    /// Which issue it is; grows with each.
    pub generation: i64,
}

/// Asks the vendor for a token.
pub type Issue<'a> = &'a (dyn Fn() -> BoxFuture<'a, Result<Issued, VendorError>> + Send + Sync);

/// What all replicas share.
#[async_trait]
pub trait Shared: Send + Sync {
    /// Leave to make one call; waits a few seconds for it.
    ///
    /// # Errors
    /// [`Next::WaitForBudget`](super::Next::WaitForBudget) when the budget is spent for longer.
    async fn take(&self, budget: &Budget) -> Result<Permit, VendorError>;

    /// Believes what the vendor says of a budget.
    async fn learn(&self, budget: &Budget, seen: Seen);

    /// The token in force for `account`. `rejected` is the generation that the vendor has just refused, if any. Whoever
    /// finds that a new one is needed calls `issue`, alone over all replicas; the others wait for what it brings.
    ///
    /// # Errors
    /// What `issue` fails with; a failure to be tried again when the one that issues does not come to an end.
    async fn token<'a>(&self, account: &str, rejected: Option<i64>, issue: Issue<'a>) -> Result<Token, VendorError>;
}

/// Nobody to share with: no budget ends, every token is asked for anew. For plans and for tests of adapters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

#[async_trait]
impl Shared for Alone {
    async fn take(&self, _budget: &Budget) -> Result<Permit, VendorError> {
        Ok(Permit::free())
    }

    async fn learn(&self, _budget: &Budget, _seen: Seen) {}

    async fn token<'a>(&self, _account: &str, rejected: Option<i64>, issue: Issue<'a>) -> Result<Token, VendorError> {
        let issued = issue().await?;
        Ok(Token { token: issued.token, generation: rejected.map_or(1, |generation| generation + 1) })
    }
}

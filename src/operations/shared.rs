//! What the replicas share at the vendors, kept in Postgres: budgets of calls, and tokens that kill one another.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    exports::problem::Code,
    store::{
        budgets::{self, BudgetKey},
        tokens::{self, NewToken, SealedToken},
    },
    vault::{SealedDataKey, Vault},
    vendors::{
        Next, VendorError,
        http::TRY_AGAIN,
        shared::{Budget, Call, Issue, Pace, Permit, Seen, Shared, Token},
    },
};

/// How long a call waits for its turn before its step is put off.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for a place: places given back tell nobody.
const LOOK: Duration = Duration::from_millis(100);
/// A place whose holder died is free again after this: longer than any call.
const HOLD: Duration = Duration::from_secs(45);
/// A call that was given up may still be on its way for this long.
const STRAY: Duration = Duration::from_secs(2);
/// Whoever refreshes a token has this long; longer than any call.
const REFRESH: Duration = Duration::from_secs(45);
/// A token this close to its end is replaced.
const EARLY: Duration = Duration::from_hours(1);
/// What the sealed token is bound to.
const TOKEN: &str = "token";

/// The shared state of one vendor's accounts.
pub struct SharedInPostgres {
    pub db: PgPool,
    pub vault: Vault,
    pub vendor: &'static str,
}

#[async_trait]
impl Shared for SharedInPostgres {
    async fn take(&self, budget: &Budget) -> Result<Permit, VendorError> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let left = match budget.pace {
                Pace::Counted => match self.count(budget).await? {
                    None => return Ok(Permit::free()),
                    Some(left) => left,
                },
                Pace::Spaced => match self.take_slot(budget).await? {
                    Ok(permit) => return Ok(permit),
                    // Places in use look taken for long, but are given back with the answer.
                    Err(left) => left.min(LOOK),
                },
            };
            if Instant::now() + left > give_up {
                let message = format!("the budget `{}` of this account is spent", budget.name);
                let after = left.max(Duration::from_secs(1)).min(Duration::from_hours(1));
                return Err(VendorError::new(Code::VendorUnavailable, Next::WaitForBudget { after }, message));
            }
            tokio::time::sleep(left.max(Duration::from_millis(10))).await;
        }
    }

    async fn learn(&self, budget: &Budget, seen: Seen) {
        let whole = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let used = whole(seen.limit.saturating_sub(seen.remaining));
        let learned = budgets::learn(&self.db, self.key(budget), whole(seen.limit), used, seen.resets_at).await;
        if let Err(error) = learned {
            warn!(error = %error, "what the vendor said of a budget could not be kept");
        }
    }

    async fn token<'a>(&self, account: &str, rejected: Option<i64>, issue: Issue<'a>) -> Result<Token, VendorError> {
        let give_up = Instant::now() + REFRESH;
        loop {
            let kept = tokens::read(&self.db, self.vendor, account).await.map_err(|error| database(&error))?;
            let generation = kept.as_ref().map_or(0, |kept| kept.generation);
            if rejected != Some(generation)
                && let Some(token) = kept.and_then(|kept| self.opened(account, &kept))
            {
                return Ok(token);
            }
            let refresher = Uuid::new_v4();
            let first = tokens::begin_refresh(&self.db, self.vendor, account, generation, refresher, REFRESH).await;
            if first.map_err(|error| database(&error))? {
                return self.refresh(account, refresher, issue).await;
            }
            if Instant::now() > give_up {
                return Err(VendorError::new(Code::VendorUnavailable, TRY_AGAIN, "no token came in time"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl SharedInPostgres {
    fn key<'a>(&'a self, budget: &'a Budget) -> BudgetKey<'a> {
        BudgetKey { vendor: self.vendor, account: &budget.account, budget: budget.name }
    }

    async fn count(&self, budget: &Budget) -> Result<Option<Duration>, VendorError> {
        let limit = i32::try_from(budget.limit).unwrap_or(i32::MAX);
        budgets::count(&self.db, self.key(budget), limit, budget.window).await.map_err(|error| database(&error))
    }

    async fn take_slot(&self, budget: &Budget) -> Result<Result<Permit, Duration>, VendorError> {
        let limit = i32::try_from(budget.limit).unwrap_or(i32::MAX);
        let taken = budgets::take_slot(&self.db, self.key(budget), limit, HOLD).await;
        let slot = match taken.map_err(|error| database(&error))? {
            Ok(slot) => slot,
            Err(left) => return Ok(Err(left)),
        };
        let (db, vendor, budget) = (self.db.clone(), self.vendor, budget.clone());
        Ok(Ok(Permit::new(move |call| {
            let rest = match call {
                Call::Answered => budget.window,
                Call::Abandoned => budget.window + STRAY,
            };
            let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
            runtime.spawn(async move {
                let key = BudgetKey { vendor, account: &budget.account, budget: budget.name };
                if let Err(error) = budgets::give_slot_back(&db, key, slot, rest).await {
                    warn!(error = %error, "a place of a call budget could not be given back; it frees itself later");
                }
            });
        })))
    }

    /// The kept token, unless it is near its end or cannot be opened: it can be got anew.
    fn opened(&self, account: &str, kept: &SealedToken) -> Option<Token> {
        if kept.life_secs? < EARLY.as_secs_f64() {
            return None;
        }
        let sealed = SealedDataKey { key_id: kept.key_id.clone()?, bytes: kept.sealed_data_key.clone()? };
        let opened = self.vault.open_data_key(&sealed).and_then(|key| {
            self.vault.open(&key, &[TOKEN, self.vendor, account], kept.token.as_deref().unwrap_or_default())
        });
        match opened {
            Ok(plain) => {
                let token = SecretString::from(std::str::from_utf8(&plain).ok()?);
                Some(Token { token, generation: kept.generation })
            }
            Err(error) => {
                warn!(error = %error, "a kept token cannot be opened; getting a new one");
                None
            }
        }
    }

    async fn refresh(&self, account: &str, refresher: Uuid, issue: Issue<'_>) -> Result<Token, VendorError> {
        let issued = match issue().await {
            Ok(issued) => issued,
            Err(error) => {
                if let Err(error) = tokens::abandon_refresh(&self.db, self.vendor, account, refresher).await {
                    warn!(error = %error, "others wait for a token that did not come");
                }
                return Err(error);
            }
        };
        let failed = |_| VendorError::new(Code::Internal, TRY_AGAIN, "the token could not be sealed");
        let (key, sealed_key) = self.vault.seal_data_key().map_err(failed)?;
        let context = [TOKEN, self.vendor, account];
        let sealed = self.vault.seal(&key, &context, issued.token.expose_secret().as_bytes()).map_err(failed)?;
        let new = NewToken {
            key_id: &sealed_key.key_id,
            sealed_data_key: &sealed_key.bytes,
            token: &sealed,
            expires_at: issued.expires_at,
        };
        let kept = tokens::end_refresh(&self.db, self.vendor, account, refresher, &new).await;
        let Some(generation) = kept.map_err(|error| database(&error))? else {
            return Err(VendorError::new(Code::VendorUnavailable, TRY_AGAIN, "getting a token took too long"));
        };
        info!(vendor.name = self.vendor, generation, "got a new token");
        Ok(Token { token: issued.token, generation })
    }
}

/// The step is tried again; the log tells the operator.
fn database(error: &sqlx::Error) -> VendorError {
    warn!(error = %error, "the database failed while a vendor call was prepared");
    VendorError::new(Code::Internal, TRY_AGAIN, "the database failed while a vendor call was prepared")
}

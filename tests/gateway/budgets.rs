//! What replicas share at a vendor: budgets that hold over all of them, and one token for each account.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use futures_util::FutureExt;
use headgate::{
    exports::problem::Code,
    operations::shared::SharedInPostgres,
    store,
    vault::{self, Vault},
    vendors::{
        Next, VendorError,
        shared::{Budget, Issued, Pace, Seen, Shared},
    },
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;

use crate::support::{MASTER_KEY, new_database};

/// Processes that share nothing but the database.
async fn replicas(count: usize) -> Vec<Arc<SharedInPostgres>> {
    let url = new_database().await;
    let mut replicas = Vec::new();
    for _ in 0..count {
        let db = PgPool::connect(&url).await.unwrap();
        store::migrate(&db).await.unwrap();
        let vault = Vault::new(vault::parse_master_keys(MASTER_KEY).unwrap()).unwrap();
        replicas.push(Arc::new(SharedInPostgres { db, vault, vendor: "growingio" }));
    }
    replicas
}

fn budget(limit: u32, window: Duration, pace: Pace) -> Budget {
    Budget { account: "a".into(), name: "calls", says: "calls of this test", limit, window, pace }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_spaced_budget_is_never_exceeded_by_three_replicas_however_late_calls_arrive() {
    let replicas = replicas(3).await;
    let window = Duration::from_millis(250);
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let calls = (0..24_u64).map(|call| {
        let replica = replicas[usize::try_from(call % 3).unwrap()].clone();
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            let mut permit = replica.take(&budget(2, window, Pace::Spaced)).await.unwrap();
            // On its way for more or less long, as calls are.
            tokio::time::sleep(Duration::from_millis(call * 7 % 40)).await;
            arrivals.lock().unwrap().push(Instant::now());
            tokio::time::sleep(Duration::from_millis(call * 5 % 20)).await;
            permit.answered();
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let mut arrivals = arrivals.lock().unwrap().clone();
    arrivals.sort();
    assert_eq!(arrivals.len(), 24);
    for three in arrivals.windows(3) {
        assert!(three[2] - three[0] >= window, "three calls within {:?}", three[2] - three[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_given_up_may_still_arrive_and_keeps_its_place_for_a_while() {
    let replicas = replicas(2).await;
    let one = budget(1, Duration::from_millis(100), Pace::Spaced);
    drop(replicas[0].take(&one).await.unwrap());
    let given_up = Instant::now();
    // What was given up is only now read by the vendor: no other call may have been made so far.
    let mut next = replicas[1].take(&one).await.unwrap();
    assert!(given_up.elapsed() >= Duration::from_secs(2), "{:?}", given_up.elapsed());
    next.answered();
    drop(next);
    let answered = Instant::now();
    drop(replicas[0].take(&one).await.unwrap());
    assert!(answered.elapsed() < Duration::from_secs(2), "{:?}", answered.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counted_budget_is_one_for_all_replicas_and_the_vendor_knows_better() {
    let replicas = replicas(2).await;
    let hour = budget(3, Duration::from_hours(1), Pace::Counted);
    for call in 0..3 {
        drop(replicas[call % 2].take(&hour).await.unwrap());
    }
    let spent = replicas[0].take(&hour).await.unwrap_err();
    assert_eq!(spent.code, Code::VendorUnavailable);
    assert!(matches!(spent.next, Next::WaitForBudget { after } if after > Duration::from_mins(59)), "{spent:?}");

    let resets_at = Utc::now() + TimeDelta::minutes(10);
    replicas[1].learn(&hour, Seen { limit: 10, remaining: 1, resets_at }).await;
    drop(replicas[0].take(&hour).await.unwrap());
    let spent = replicas[1].take(&hour).await.unwrap_err();
    assert!(matches!(spent.next, Next::WaitForBudget { after } if after <= Duration::from_mins(10)), "{spent:?}");

    // The answer of a call that was on its way, about the longer window, does not stretch the refusal to that window.
    let resets_at = Utc::now() + TimeDelta::minutes(50);
    replicas[0].learn(&hour, Seen { limit: 10, remaining: 7, resets_at }).await;
    drop(replicas[1].take(&hour).await.unwrap());

    let other = Budget { account: "b".into(), ..hour };
    drop(replicas[0].take(&other).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_waited_for_when_it_comes_back_soon() {
    let replicas = replicas(1).await;
    let soon = budget(1, Duration::from_millis(300), Pace::Counted);
    let began = Instant::now();
    for _ in 0..3 {
        drop(replicas[0].take(&soon).await.unwrap());
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
}

/// A vendor whose tokens kill one another.
#[derive(Default)]
struct Mint {
    issued: AtomicU64,
}

impl Mint {
    fn issue(&self) -> Issued {
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        Issued { token: SecretString::from(format!("token-{number}")), expires_at: Utc::now() + TimeDelta::days(30) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_worker_of_all_replicas_gets_the_token_and_the_others_wait_for_it() {
    let replicas = replicas(3).await;
    let mint = Arc::new(Mint::default());
    let mut rejected = None;
    for round in 1..=3_u64 {
        let calls = (0..30).map(|call| {
            let (replica, mint) = (replicas[call % 3].clone(), mint.clone());
            tokio::spawn(async move {
                let issue = || {
                    async {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        Ok(mint.issue())
                    }
                    .boxed()
                };
                replica.token("account", rejected, &issue).await.unwrap()
            })
        });
        let mut seen = BTreeSet::new();
        for call in calls.collect::<Vec<_>>() {
            let token = call.await.unwrap();
            seen.insert((token.token.expose_secret().to_owned(), token.generation));
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(mint.issued.load(Ordering::SeqCst), round);
        rejected = seen.first().map(|(_, generation)| *generation);
    }
    let kept: Vec<u8> = sqlx::query_scalar("select token from vendor_token").fetch_one(&replicas[0].db).await.unwrap();
    assert!(!kept.windows(5).any(|part| part == b"token"), "the token is kept sealed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_fails_lets_the_next_one_try_at_once() {
    let replicas = replicas(2).await;
    let refused = || async { Err(VendorError::new(Code::VendorCredentialsRejected, Next::GiveUp, "no")) }.boxed();
    let error = replicas[0].token("account", None, &refused).await.unwrap_err();
    assert_eq!(error.code, Code::VendorCredentialsRejected);
    let mint = Mint::default();
    let issue = || async { Ok(mint.issue()) }.boxed();
    let began = Instant::now();
    assert_eq!(replicas[1].token("account", None, &issue).await.unwrap().generation, 1);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_near_its_end_is_replaced_before_it_ends() {
    let replicas = replicas(1).await;
    let short = || {
        async { Ok(Issued { token: SecretString::from("old"), expires_at: Utc::now() + TimeDelta::minutes(30) }) }
            .boxed()
    };
    assert_eq!(replicas[0].token("account", None, &short).await.unwrap().generation, 1);
    let mint = Mint::default();
    let issue = || async { Ok(mint.issue()) }.boxed();
    assert_eq!(replicas[0].token("account", None, &issue).await.unwrap().generation, 2);
    assert_eq!(replicas[0].token("account", None, &issue).await.unwrap().generation, 2);
}

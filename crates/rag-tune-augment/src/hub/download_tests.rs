//! Downloads from a server that this test starts, with what can go wrong on the way.

use std::fs;
use std::path::{Path, PathBuf};

use super::test_hub::{COMMIT, TestHub, blob};
use super::*;

/// A hub client whose home is `home`.
fn client(home: &Path, hub: &TestHub, more: &[(&str, &str)]) -> Hub {
    let mut variables = vec![
        ("HF_HOME".to_owned(), home.to_str().unwrap().to_owned()),
        ("HF_ENDPOINT".to_owned(), hub.url()),
    ];
    variables.extend(
        more.iter()
            .map(|(name, value)| ((*name).into(), (*value).into())),
    );
    Hub::from_variables(None, &move |name| {
        let variable = variables.iter().find(|(key, _)| key == name);
        variable.map(|(_, value)| value.clone())
    })
}

fn split(hub: &Hub, split: &str) -> Result<Vec<PathBuf>, AugmentError> {
    let data = DataConfig {
        source: "owner/name".into(),
        ..DataConfig::default()
    };
    hub.split_files(&data, split)
}

fn status_and_hint(error: AugmentError) -> (u16, String) {
    let AugmentError::HubStatus { status, .. } = error else {
        panic!("{error}")
    };
    (status, error.hint().unwrap())
}

const OFFLINE: (&str, &str) = ("HF_HUB_OFFLINE", "1");

#[test]
fn a_private_data_set_needs_its_token() {
    let server = TestHub::start(&[("train.jsonl", b"{}\n"), ("README.md", b"")]);
    server.behaviour.lock().unwrap().token = Some("secret".into());
    let home = tempfile::tempdir().unwrap();

    let (status, hint) =
        status_and_hint(split(&client(home.path(), &server, &[]), "train").unwrap_err());
    assert_eq!(status, 401);
    assert!(hint.contains("set HF_TOKEN"), "{hint}");
    let wrong = client(home.path(), &server, &[("HF_TOKEN", "guess")]);
    let (status, hint) = status_and_hint(split(&wrong, "train").unwrap_err());
    assert_eq!(status, 401);
    assert!(
        hint.contains("not valid") && !hint.contains("guess"),
        "{hint}"
    );

    let right = client(home.path(), &server, &[("HF_TOKEN", "secret")]);
    let files = split(&right, "train").unwrap();
    assert_eq!(fs::read(&files[0]).unwrap(), b"{}\n");
    assert!(files[0].ends_with(format!("snapshots/{COMMIT}/train.jsonl")));
}

#[test]
fn statuses_are_told_apart() {
    let server = TestHub::start(&[("train.jsonl", b"{}\n")]);
    let home = tempfile::tempdir().unwrap();
    let hub = client(home.path(), &server, &[]);
    let missing = DataConfig {
        source: "owner/other".into(),
        ..DataConfig::default()
    };
    let (status, hint) = status_and_hint(hub.split_files(&missing, "train").unwrap_err());
    assert!(status == 404 && hint.contains("spelling"), "{hint}");
    let (status, _) = status_and_hint(hub.model("owner/other").unwrap_err());
    assert_eq!(status, 404);

    server.behaviour.lock().unwrap().failures = (403, 1);
    let (status, hint) = status_and_hint(split(&hub, "train").unwrap_err());
    let page = format!("{}/datasets/owner/name", server.url());
    assert!(status == 403 && hint.contains(&page), "{hint}");

    let error = split(&hub, "test").unwrap_err();
    assert_eq!(error.to_string(), "`owner/name` has no split `test`");
    assert_eq!(error.hint().unwrap(), "it has `train`");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let server = TestHub::start(&[("train.jsonl", b"{}\n")]);
    let home = tempfile::tempdir().unwrap();
    server.behaviour.lock().unwrap().failures = (503, 2);
    assert!(split(&client(home.path(), &server, &[]), "train").is_ok());
    assert_eq!(
        server.requests()[..3],
        ["/api/datasets/owner/name/revision/main?blobs=true"; 3]
    );
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let server = TestHub::start(&[("train.jsonl", &content)]);
    server.behaviour.lock().unwrap().broken_downloads = 2;
    let home = tempfile::tempdir().unwrap();
    let files = split(&client(home.path(), &server, &[]), "train").unwrap();
    assert!(fs::read(&files[0]).unwrap() == content);
    let ranges: Vec<String> = server.requests()[2..]
        .iter()
        .map(|r| r.split(' ').nth(1).unwrap().into())
        .collect();
    assert_eq!(ranges, ["bytes=0-", "bytes=600000-", "bytes=900000-"]);
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let server = TestHub::start(&[("train.jsonl", &content)]);
    server.behaviour.lock().unwrap().broken_downloads = usize::MAX;
    let home = tempfile::tempdir().unwrap();
    let error = split(&client(home.path(), &server, &[]), "train").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot fetch `owner/name` from http://127.0.0.1"),
        "{error}"
    );
    // What broke off is no cached file.
    let offline = client(home.path(), &server, &[OFFLINE]);
    assert!(matches!(
        split(&offline, "train"),
        Err(AugmentError::Offline { .. })
    ));

    server.behaviour.lock().unwrap().broken_downloads = 0;
    server.requests();
    let files = split(&client(home.path(), &server, &[]), "train").unwrap();
    assert!(fs::read(&files[0]).unwrap() == content);
    let requests = server.requests();
    let start = requests.last().unwrap().rsplit_once("bytes=").unwrap().1;
    assert!(
        start.trim_end_matches('-').parse::<usize>().unwrap() >= 600_000,
        "{requests:?}"
    );
}

/// hf-hub would ask for what is behind the end, for ever.
#[test]
fn a_partial_file_that_is_whole_or_too_long_is_fetched_again() {
    let server = TestHub::start(&[("train.jsonl", b"{\"a\":1}\n")]);
    for part in [&b"{\"a\":1}\n"[..], b"much longer than the file"] {
        let home = tempfile::tempdir().unwrap();
        let blobs = home.path().join("hub/datasets--owner--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.part", blob("train.jsonl"))), part).unwrap();
        let files = split(&client(home.path(), &server, &[]), "train").unwrap();
        assert_eq!(fs::read(&files[0]).unwrap(), b"{\"a\":1}\n");
    }
}

#[test]
fn what_was_fetched_needs_no_network_again() {
    let server = TestHub::start(&[("main/train.jsonl", b"{}\n"), ("main/test.jsonl", b"{}\n")]);
    let home = tempfile::tempdir().unwrap();
    let online = client(home.path(), &server, &[]);
    let offline = client(home.path(), &server, &[OFFLINE]);
    assert!(matches!(
        split(&offline, "train"),
        Err(AugmentError::Offline { .. })
    ));
    let files = split(&online, "train").unwrap();
    server.requests();
    assert_eq!(split(&online, "train").unwrap(), files);
    assert_eq!(server.requests(), [""; 0], "the cache was enough");
    drop(server);
    assert_eq!(split(&offline, "train").unwrap(), files);
    // The data set has it, this machine does not.
    assert!(matches!(
        split(&offline, "test"),
        Err(AugmentError::Offline { .. })
    ));
    assert!(matches!(
        split(&online, "test"),
        Err(AugmentError::HubUnreachable { .. })
    ));
    let error = split(&offline, "validation").unwrap_err();
    assert_eq!(error.to_string(), "`owner/name` has no split `validation`");
}

/// With the first of two configurations in the cache, the second must not be forgotten.
#[test]
fn configurations_that_were_not_fetched_are_remembered() {
    let server = TestHub::start(&[("main/train.jsonl", b"1"), ("other/train.jsonl", b"2")]);
    let home = tempfile::tempdir().unwrap();
    let hub = client(home.path(), &server, &[]);
    let data = DataConfig {
        source: "owner/name:other".into(),
        ..DataConfig::default()
    };
    let files = hub.split_files(&data, "train").unwrap();
    assert_eq!(fs::read(&files[0]).unwrap(), b"2");
    for hub in [&hub, &client(home.path(), &server, &[OFFLINE])] {
        let error = split(hub, "train").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("several configurations: `main`, `other`"),
            "{error}"
        );
    }
}

#[test]
fn shards_are_taken_from_the_cache_only_together() {
    let names = [
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
    ];
    let server = TestHub::start(&[(names[0], b"0"), (names[1], b"1")]);
    let home = tempfile::tempdir().unwrap();
    let hub = client(home.path(), &server, &[]);
    let files = split(&hub, "train").unwrap();
    assert!(
        files[0].ends_with(names[0]) && files[1].ends_with(names[1]),
        "{files:?}"
    );
    fs::remove_file(&files[1]).unwrap();
    let offline = client(home.path(), &server, &[OFFLINE]);
    assert!(matches!(
        split(&offline, "train"),
        Err(AugmentError::Offline { .. })
    ));
    assert_eq!(split(&hub, "train").unwrap(), files);
    assert_eq!(fs::read(&files[1]).unwrap(), b"1");
}

#[test]
fn an_embedder_comes_with_the_files_of_its_modules() {
    let wanted = [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "model.safetensors",
    ];
    let unwanted = ["onnx/model.onnx", "pytorch_model.bin", "README.md"];
    let files: Vec<(&str, &[u8])> = wanted
        .iter()
        .chain(&unwanted)
        .map(|name| (*name, &b"{}"[..]))
        .collect();
    let server = TestHub::start(&files);
    let home = tempfile::tempdir().unwrap();
    let folder = client(home.path(), &server, &[])
        .model("owner/name")
        .unwrap();
    assert!(wanted.iter().all(|name| folder.join(name).is_file()));
    assert!(!unwanted.iter().any(|name| folder.join(name).exists()));
    assert_eq!(
        client(home.path(), &server, &[OFFLINE])
            .model("owner/name")
            .unwrap(),
        folder
    );
}

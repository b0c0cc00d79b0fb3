//! Models from the Hub, against a server on this machine: what is asked for, where it is kept, when the cache serves.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | the Hub's protocol, with every part open to change |
//! | [`faults`] | a server that cuts, stalls, refuses and lies |

#![allow(clippy::unwrap_used)]

mod faults;
mod server;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use server::{Answer, Asked, COMMIT, Cache, Files, Hub, SHA256, WEIGHTS, etag, files, full, message, serve, weights};
use tx_core::Error;
use tx_core::hub::{HubOptions, Repo, Wanted, cached, resolve};

#[test]
fn a_download_has_the_layout_of_python() {
    let (hub, cache) = (Hub::good(), Cache::new());
    let folder = full(&cache.options(&hub)).unwrap();
    assert_eq!(folder, cache.repo().join("snapshots").join(COMMIT));
    cache.assert_complete();
    assert_eq!(fs::read_to_string(cache.repo().join("refs/main")).unwrap(), COMMIT);
    assert!(cache.folder.path().join(format!("cache/.locks/models--o--m/{SHA256}.lock")).is_file());
    for (name, up) in [("config.json", "../.."), ("1_Pooling/config.json", "../../..")] {
        let blob = cache.repo().join("blobs").join(etag(name));
        assert_eq!(fs::read(folder.join(name)).unwrap(), fs::read(&blob).unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::read_link(folder.join(name)).unwrap(), Path::new(up).join("blobs").join(etag(name)));
            // As readable as any file that this process makes.
            File::create(cache.repo().join("refs/made")).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&blob), mode(&cache.repo().join("refs/made")));
        }
    }
    // The second time, only the list is asked for.
    let before = hub.asked.lock().unwrap().len();
    assert_eq!(full(&cache.options(&hub)).unwrap(), folder);
    assert_eq!(hub.asked.lock().unwrap()[before..], ["GET /api/models/o/m/revision/main"]);
}

#[test]
fn only_what_is_wanted_is_asked_for() {
    let tokenizer = ["config.json", "tokenizer.json", "tokenizer_config.json"];
    let rest = ["1_Pooling/config.json", "modules.json", WEIGHTS];
    let everything = [tokenizer.as_slice(), &rest].concat();
    for (wanted, expected) in
        [(Wanted::ConfigOnly, &tokenizer[..1]), (Wanted::Tokenizer, &tokenizer[..]), (Wanted::Full, &everything[..])]
    {
        let (hub, cache) = (Hub::good(), Cache::new());
        resolve("o/m", wanted, &cache.options(&hub)).unwrap();
        assert_eq!(hub.files(), expected.iter().map(|s| s.to_string()).collect(), "{wanted:?}");
    }
}

#[test]
fn weights_in_every_form() {
    let index = |names: [&str; 2]| {
        serde_json::json!({ "weight_map": { "a": names[0], "b": names[1], "c": names[0] } }).to_string().into_bytes()
    };
    let safetensors = ["s/model-1-of-2.safetensors", "model-2-of-2.safetensors"];
    let pickled = ["pytorch_model-1.bin", "pytorch_model-2.bin"];
    let forms: [(&str, Files, &[&str]); 3] = [
        (
            "shards",
            vec![
                ("model.safetensors.index.json", index(safetensors)),
                (safetensors[0], weights()),
                (safetensors[1], b"2".to_vec()),
                ("pytorch_model.bin", b"3".to_vec()),
            ],
            &["model.safetensors.index.json", safetensors[0], safetensors[1]],
        ),
        ("pickle", vec![("pytorch_model.bin", b"3".to_vec())], &["pytorch_model.bin"]),
        (
            "pickled shards",
            vec![
                ("pytorch_model.bin.index.json", index(pickled)),
                (pickled[0], b"1".to_vec()),
                (pickled[1], b"2".to_vec()),
            ],
            &["pytorch_model.bin.index.json", pickled[0], pickled[1]],
        ),
    ];
    for (form, mut files, expected) in forms {
        files.push(("config.json", b"{}".to_vec()));
        let cache = Cache::new();
        let hub = Hub::start(move |asked| serve(&files, asked));
        let folder = full(&cache.options(&hub)).unwrap();
        let asked = hub.files();
        assert_eq!(asked, expected.iter().chain(&["config.json"]).map(|s| s.to_string()).collect(), "{form}");
        assert!(asked.iter().all(|file| folder.join(file).is_file()), "{form}");
        let offline = HubOptions { offline: true, ..cache.options(&hub) };
        assert_eq!(full(&offline).unwrap(), folder, "{form}");
        fs::remove_file(folder.join(expected[expected.len() - 1])).unwrap();
        assert!(message(full(&offline)).contains("offline, and no `"), "{form}");
    }
}

#[test]
fn many_at_once_download_once() {
    let hub = Hub::with(|asked, answer| {
        if asked.method == "GET" && !asked.lists() {
            answer.pace = Duration::from_millis(60);
        }
    });
    let cache = Cache::new();
    let options = cache.options(&hub);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| full(&options))).collect();
        for one in all {
            one.join().unwrap().unwrap();
        }
    });
    cache.assert_complete();
    assert_eq!((hub.count("GET", WEIGHTS), hub.count("GET", "tokenizer.json")), (1, 1));
}

#[test]
fn two_processes_download_once_and_survive_a_kill() {
    let hub = Hub::with(|asked, answer| {
        if asked.is("GET", WEIGHTS) {
            answer.pace = Duration::from_millis(60);
        }
    });
    let cache = Cache::new();
    let spawn = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["as_another_process", "--exact", "--ignored"])
            .env("TX_TEST_HUB", &hub.url)
            .env("TX_TEST_CACHE", cache.folder.path().join("cache"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut killed = spawn();
    let begun = Instant::now();
    while !cache.repo().join("blobs").is_dir() || cache.partial().iter().all(|p| !p.to_string_lossy().contains(SHA256))
    {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(150));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!cache.weights().exists() && cache.partial().len() == 1);

    let mut both = [spawn(), spawn()];
    assert!(both.iter_mut().all(|process| process.wait().unwrap().success()));
    cache.assert_complete();
    // Once by the one that was killed, once by one of the two.
    assert_eq!(hub.count("GET", WEIGHTS), 2);
}

#[test]
#[ignore = "the other half of `two_processes_download_once_and_survive_a_kill`"]
fn as_another_process() {
    let hub = Hub { url: std::env::var("TX_TEST_HUB").unwrap(), asked: Arc::default() };
    let cache = std::env::var_os("TX_TEST_CACHE").unwrap().into();
    full(&HubOptions { cache, ..Cache::new().options(&hub) }).unwrap();
}

#[test]
fn a_lock_is_waited_for_as_long_as_there_is_progress() {
    let (hub, cache) = (Hub::good(), Cache::new());
    let locks = cache.folder.path().join("cache/.locks/models--o--m");
    fs::create_dir_all(&locks).unwrap();
    fs::create_dir_all(cache.repo().join("blobs")).unwrap();
    let lock = File::create(locks.join(format!("{SHA256}.lock"))).unwrap();
    lock.lock().unwrap();
    // It is given up after 1.6 s without progress.
    let options = HubOptions { idle_timeout: Duration::from_millis(400), ..cache.options(&hub) };
    let text = message(full(&options));
    assert!(text.contains("another process holds") && text.contains(".lock"), "{text}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| full(&options));
        let mut growing = File::create(cache.repo().join(format!("blobs/{SHA256}.incomplete"))).unwrap();
        for piece in weights().chunks(10_000) {
            assert!(!waiting.is_finished());
            growing.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(110));
        }
        lock.unlock().unwrap();
        waiting.join().unwrap().unwrap();
    });
    cache.assert_complete();
    assert_eq!(hub.count("GET", WEIGHTS), 0);
}

#[test]
fn a_cached_copy_serves_when_the_hub_does_not() {
    let cache = Cache::new();
    let nobody = Hub { url: "http://127.0.0.1:9".into(), asked: Arc::default() };
    let offline = HubOptions { offline: true, ..cache.options(&nobody) };
    for (options, expected) in
        [(&offline, "offline, and no revision `main`"), (&cache.options(&nobody), "cannot reach 127.0.0.1")]
    {
        let text = message(full(options));
        assert!(text.contains(expected) && text.contains("tx download o/m") && text.contains("HF_ENDPOINT"), "{text}");
    }
    resolve("o/m", Wanted::Tokenizer, &cache.options(&Hub::good())).unwrap();
    assert!(
        resolve("o/m", Wanted::Tokenizer, &offline).is_ok() && resolve("o/m", Wanted::ConfigOnly, &offline).is_ok()
    );
    assert!(message(full(&offline)).contains("no `model.safetensors`"));
    let folder = full(&cache.options(&Hub::good())).unwrap();
    assert_eq!(full(&offline).unwrap(), folder);
    assert_eq!(cached(&Repo::parse("o/m").unwrap(), Wanted::Full, &offline), Some(folder.clone()));
    assert_eq!(resolve(&format!("o/m@{COMMIT}"), Wanted::Full, &offline).unwrap(), folder);
    assert!(resolve("o/m@v1", Wanted::Full, &offline).is_err());
    // Nobody listens; nobody answers, which is waited for once; an error; a page of someone else.
    assert_eq!(full(&cache.options(&nobody)).unwrap(), folder);
    for (status, stall) in [(500, 0), (403, 0), (200, 0), (200, 2)] {
        let hub = Hub::with(move |_, answer| {
            std::thread::sleep(Duration::from_secs(stall));
            *answer = Answer::new(status, "<html>");
        });
        let options = HubOptions { idle_timeout: Duration::from_millis(500), ..cache.options(&hub) };
        assert_eq!(full(&options).unwrap(), folder, "{status}");
        assert_eq!(hub.asked.lock().unwrap().len(), 1, "{status}");
    }
    // But what the Hub says is gone, is gone.
    let hub = Hub::with(|_, answer| *answer = Answer::new(404, ""));
    assert!(full(&cache.options(&hub)).is_err());
}

#[test]
fn a_ref_moves_only_when_everything_is_there() {
    const NEXT: &str = "2222222222222222222222222222222222222222";
    let (cache, healthy) = (Cache::new(), Arc::new(AtomicBool::new(false)));
    let old = resolve("o/m@v1", Wanted::Full, &cache.options(&Hub::good())).unwrap();
    assert_eq!(full(&cache.options(&Hub::good())).unwrap(), old);
    for revision in ["main", "v1"] {
        assert_eq!(fs::read_to_string(cache.repo().join("refs").join(revision)).unwrap(), COMMIT);
    }
    resolve(&format!("o/m@{COMMIT}"), Wanted::Full, &cache.options(&Hub::good())).unwrap();
    assert!(!cache.repo().join("refs").join(COMMIT).exists());

    let now = healthy.clone();
    let hub = Hub::start(move |asked| {
        let path = asked.path.replace(NEXT, COMMIT);
        let mut answer = serve(&files(), &Asked { method: asked.method.clone(), path, headers: asked.headers.clone() });
        if asked.lists() {
            answer.body = String::from_utf8(answer.body).unwrap().replace(COMMIT, NEXT).into();
        }
        if asked.path.ends_with("tokenizer.json") && !now.load(Ordering::SeqCst) {
            answer = Answer::new(500, "");
        }
        // The new commit has another tokenizer.
        answer.headers.iter_mut().for_each(|(_, value)| *value = value.replace(&etag("tokenizer.json"), NEXT));
        answer
    });
    assert_eq!(full(&cache.options(&hub)).unwrap(), old);
    assert_eq!(fs::read_to_string(cache.repo().join("refs/main")).unwrap(), COMMIT);
    healthy.store(true, Ordering::SeqCst);
    let new = full(&cache.options(&hub)).unwrap();
    assert!(new.ends_with(NEXT) && new.join("1_Pooling/config.json").is_file());
    assert_eq!(fs::read_to_string(cache.repo().join("refs/main")).unwrap(), NEXT);
    assert_eq!(fs::read_to_string(cache.repo().join("refs/v1")).unwrap(), COMMIT);
    // Blobs that both have are not downloaded again.
    assert_eq!((hub.count("GET", "tokenizer.json"), hub.count("GET", WEIGHTS)), (1, 0));
    // A ref that someone broke is nothing, not a path.
    fs::write(cache.repo().join("refs/main"), "../../..").unwrap();
    assert!(full(&HubOptions { offline: true, ..cache.options(&hub) }).is_err());
}

#[test]
fn names_of_models() {
    let (hub, cache) = (Hub::good(), Cache::new());
    let options = cache.options(&hub);
    let folder = cache.folder.path().join("my model");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("model.gguf"), "").unwrap();
    assert_eq!(resolve(folder.to_str().unwrap(), Wanted::Full, &options).unwrap(), folder);
    for (model, expected) in [
        (folder.join("model.gguf").to_str().unwrap(), "is a file, expected the folder"),
        ("./nowhere", "`./nowhere` is no such folder, expected an existing folder, or `owner/name[@revision]`"),
        ("a/b/c", "is neither a folder on disk nor an id of the Hub, expected an existing folder, or `owner/name"),
        ("a/b@../../x", "is not a revision"),
        ("", "neither a folder on disk nor an id"),
    ] {
        let error = resolve(model, Wanted::Full, &options).unwrap_err();
        assert!(matches!(error, Error::Input { .. }) && error.to_string().contains(expected), "{error}");
    }
    for endpoint in ["", "ftp://x", "huggingface.co", "http://"] {
        let error = full(&HubOptions { endpoint: endpoint.into(), ..cache.options(&hub) }).unwrap_err();
        assert!(matches!(error, Error::Input { .. }) && error.to_string().contains("HF_ENDPOINT"), "{error}");
    }
    let hub = Hub::with(|_, answer| *answer = Answer::new(403, ""));
    let endpoint = hub.url.replace("http://", "http://user:password@");
    let text = message(full(&HubOptions { endpoint, ..options }));
    assert!(!text.contains("password"), "{text}");
}

//! A server that cuts, stalls, refuses and lies: the cache holds complete files or none, and nothing outside of it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tx_core::hub::{HubOptions, Wanted, resolve};

use crate::server::{
    Answer, Asked, COMMIT, Cache, Files, Hub, SHA256, WEIGHTS, etag, full, listing, message, serve, weights,
};

#[test]
fn a_cut_body_is_never_a_blob() {
    for (chunked, ranges) in [(false, true), (true, true), (false, false)] {
        for cut in [0, 1, 100_000, 199_999] {
            let cache = Cache::new();
            let bad = Hub::with(move |asked, answer| {
                if asked.is("GET", WEIGHTS) {
                    // Each try gets no further than the first.
                    let from = answer.headers.iter().any(|(name, _)| *name == "Content-Range") as usize * cut;
                    answer.cut = Some(cut.saturating_sub(from));
                    answer.chunked = chunked;
                }
            });
            let text = message(full(&cache.options(&bad)));
            assert!(text.contains("o/m/model.safetensors") && text.contains("was cut"), "{text}");
            assert!(text.contains(&format!("after {cut} of 200000 bytes, 3 times")), "{text}");
            assert!(!cache.weights().exists() && !cache.repo().join("refs/main").exists());
            assert_eq!(bad.count("GET", WEIGHTS), 3);
            assert_eq!(cache.partial().len(), usize::from(cut > 0), "{cut}");

            let range = Arc::new(Mutex::new(None));
            let seen = range.clone();
            let good = Hub::with(move |asked, answer| {
                if asked.is("GET", WEIGHTS) {
                    *seen.lock().unwrap() = asked.headers.get("range").cloned();
                    if !ranges {
                        *answer = Answer::new(200, weights());
                    }
                }
            });
            full(&cache.options(&good)).unwrap();
            cache.assert_complete();
            assert_eq!(*range.lock().unwrap(), (cut > 0).then(|| format!("bytes={cut}-")));
        }
    }
}

#[test]
fn what_an_earlier_download_left_is_used_only_if_it_is_right() {
    let (half, mut wrong) = (weights()[..100_000].to_vec(), weights()[..100_000].to_vec());
    wrong[7] ^= 1;
    let (mut long, mut other) = (weights(), weights());
    long.push(0);
    other[199_999] ^= 1;
    for (name, left, requests) in
        [("half", half, 1), ("wrong", wrong, 2), ("all", weights(), 0), ("all but wrong", other, 1), ("long", long, 1)]
    {
        let (hub, cache) = (Hub::good(), Cache::new());
        fs::create_dir_all(cache.repo().join("blobs")).unwrap();
        fs::write(cache.repo().join(format!("blobs/{SHA256}.incomplete")), left).unwrap();
        fs::write(cache.repo().join(format!("blobs/{SHA256}.0a.incomplete")), b"short").unwrap();
        fs::write(cache.repo().join(format!("blobs/{}.incomplete", etag("config.json"))), b"{\"evil").unwrap();
        full(&cache.options(&hub)).unwrap();
        cache.assert_complete();
        assert_eq!(hub.count("GET", WEIGHTS), requests, "{name}");
    }
    // A blob that some other program cut.
    let (hub, cache) = (Hub::good(), Cache::new());
    fs::create_dir_all(cache.repo().join("blobs")).unwrap();
    fs::write(cache.weights(), b"cut").unwrap();
    full(&cache.options(&hub)).unwrap();
    cache.assert_complete();
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    for (name, method, file, cut) in [
        ("list", "GET", "main", 10),
        ("head", "HEAD", WEIGHTS, 0),
        ("body", "GET", WEIGHTS, 100_000),
        ("start", "GET", WEIGHTS, 0),
    ] {
        let cache = Cache::new();
        let silent = Hub::with(move |asked, answer| {
            if asked.is(method, file) {
                if name == "head" {
                    std::thread::sleep(Duration::from_secs(2));
                }
                // What a second try asks for does not come at all.
                let cut = if answer.status == 206 { 0 } else { cut };
                (answer.cut, answer.stall) = (Some(cut), Duration::from_secs(2));
            }
        });
        let since = Instant::now();
        let options = HubOptions { idle_timeout: Duration::from_millis(300), tries: 2, ..cache.options(&silent) };
        let text = message(full(&options));
        assert!(text.contains("sent nothing for 300ms") || text.contains("no answer"), "{name}: {text}");
        assert!(since.elapsed() < Duration::from_secs(5), "{name}: {:?}", since.elapsed());
        assert!(!cache.weights().exists());
        full(&cache.options(&Hub::good())).unwrap();
        cache.assert_complete();
    }
}

#[test]
fn refusals_say_what_to_do() {
    // (status, code, answers to which request, is it tried again, what the message holds)
    let cases: [(u16, &str, &str, bool, &[&str]); 12] = [
        (404, "RepoNotFound", "main", false, &["o/m: no such repository (404)", "/o/m"]),
        (404, "", "main", false, &["no such repository (404)"]),
        (404, "EntryNotFound", "tokenizer.json", false, &["o/m/tokenizer.json: no such file in the repository"]),
        (401, "RepoNotFound", "main", false, &["private or gated (401)", "set HF_TOKEN", "/o/m"]),
        (
            401,
            "GatedRepo",
            "tokenizer.json",
            false,
            &["gated, or not open to you (401)", "accept the licence at http://", "/o/m"],
        ),
        (
            403,
            "GatedRepo",
            "main",
            false,
            &["gated, or not open to you (403)", "accept the licence at http://", "HF_TOKEN"],
        ),
        (403, "", WEIGHTS, false, &["o/m/model.safetensors: gated, or not open to you (403)"]),
        (429, "", "main", true, &["too many requests (429), 3 times", "wait"]),
        (500, "", "main", true, &["is in trouble (500", "3 times", "HF_ENDPOINT"]),
        (503, "", WEIGHTS, true, &["o/m/model.safetensors: ", "is in trouble (503", "3 times"]),
        (418, "", "main", false, &["answers 418"]),
        (304, "", "tokenizer.json", false, &["answers 304"]),
    ];
    for (status, code, file, again, expected) in cases {
        let cache = Cache::new();
        let hub = Hub::with(move |asked, answer| {
            if asked.path.ends_with(&format!("/{file}")) {
                *answer = Answer::new(status, "\x1b[31m<html>").with("X-Error-Code", code);
            }
        });
        let text = message(full(&cache.options(&hub)));
        assert!(expected.iter().all(|part| text.contains(part)) && !text.contains('\x1b'), "{status} {code}: {text}");
        let method = if file == "main" { "GET" } else { "HEAD" };
        assert_eq!(hub.count(method, file), if again { 3 } else { 1 }, "{status} {code}");
        assert!(!cache.repo().join("refs").exists());
    }
    let (hub, cache) = (Hub::good(), Cache::new());
    let text = message(resolve("o/m@v9", Wanted::Full, &cache.options(&hub)));
    assert!(text.contains("no revision `v9`"), "{text}");
    // A Hub that asks for an hour is reported at once.
    let hub = Hub::with(|_, answer| *answer = Answer::new(429, "").with("Retry-After", "3600"));
    let text = message(full(&cache.options(&hub)));
    assert!(text.contains("wait 3600 s") && hub.count("GET", "main") == 1, "{text}");
    // What a store refuses has nothing to do with licences.
    let store = Hub::start(|_| Answer::new(403, ""));
    let url = format!("{}/x", store.url);
    let hub = Hub::with(move |asked, answer| {
        if asked.is("GET", WEIGHTS) {
            *answer = Answer::new(302, "").with("Location", url.clone());
        }
    });
    let text = message(full(&cache.options(&hub)));
    assert!(text.contains("o/m/model.safetensors: 127.0.0.1 answers 403"), "{text}");
    // A token that was refused is not asked for again.
    let hub = Hub::with(|_, answer| *answer = Answer::new(401, ""));
    let text = message(full(&HubOptions { token: Some("secret".into()), ..cache.options(&hub) }));
    assert!(text.contains("use an HF_TOKEN that may read it") && !text.contains("secret"), "{text}");
}

#[test]
fn a_server_that_recovers_is_waited_for() {
    for file in ["main", "config.json", WEIGHTS] {
        let (cache, failed) = (Cache::new(), Mutex::new(0));
        let hub = Hub::with(move |asked, answer| {
            if asked.path.ends_with(&format!("/{file}")) && (asked.method == "GET" || file == "config.json") {
                let mut failed = failed.lock().unwrap();
                *failed += 1;
                if *failed <= 2 {
                    *answer = Answer::new(500 + *failed, "");
                }
            }
        });
        full(&cache.options(&hub)).unwrap();
        cache.assert_complete();
    }
}

#[test]
fn lies_are_found_and_leave_nothing_behind() {
    type Lie = fn(&Asked, &mut Answer);
    let lies: [(&str, &str, Lie); 20] = [
        ("longer", "is longer than the 200000 bytes", |q, a| {
            if q.is("GET", WEIGHTS) {
                a.body.push(0)
            }
        }),
        ("endless", "is longer than the 200000 bytes", |q, a| {
            if q.is("GET", WEIGHTS) {
                (a.body, a.chunked) = (vec![0; 3_000_000], true);
            }
        }),
        ("shorter", "was cut after 199990 of 200000", |q, a| {
            if q.is("GET", WEIGHTS) {
                *a = Answer::new(200, &weights()[..199_990]);
            }
        }),
        ("shorter small file", "o/m/tokenizer.json: the download", |q, a| {
            if q.is("GET", "tokenizer.json") {
                a.body.pop();
            }
        }),
        ("other bytes", "has SHA-256", |q, a| {
            if q.is("GET", WEIGHTS) {
                a.body[1000] ^= 1
            }
        }),
        ("etag leads outside", "as the file's ETag", |_, a| a.set("ETag", "\"../../../evil\"")),
        ("etag is absolute", "as the file's ETag", |_, a| a.set("ETag", "/tmp/evil")),
        ("linked etag", "as the file's ETag", |q, a| {
            if q.is("HEAD", WEIGHTS) {
                a.set("X-Linked-Etag", "..")
            }
        }),
        ("etag is short", "as the file's ETag", |_, a| a.set("ETag", "\"0123456789abcdef\"")),
        ("etag is upper case", "as the file's ETag", |_, a| a.set("ETag", SHA256.to_uppercase())),
        ("no etag", "as the file's ETag", |_, a| a.headers.retain(|(name, _)| *name != "ETag")),
        ("no length", "does not give the file's length", |_, a| a.set("No-Length", "")),
        ("commit leads outside", "as the commit of `main`", |q, a| {
            if q.lists() {
                a.body = listing("../../../evil", &["config.json", WEIGHTS]).into();
            }
        }),
        ("commit is short", "as the commit of `main`", |q, a| {
            if q.lists() {
                a.body = listing("1111111", &["config.json", WEIGHTS]).into();
            }
        }),
        ("not JSON", "is not the expected JSON at line 1", |q, a| {
            if q.lists() {
                a.body = b"<html>\x1b".to_vec()
            }
        }),
        ("endless list", "in more than 16777216 bytes", |q, a| {
            if q.lists() {
                a.body = vec![b' '; 17 << 20]
            }
        }),
        ("no config", "o/m/config.json: not in the repository", |q, a| {
            if q.lists() {
                a.body = listing(COMMIT, &["../config.json", WEIGHTS]).into();
            }
        }),
        ("no weights", "no weights in the format", |q, a| {
            if q.lists() {
                a.body = listing(COMMIT, &["config.json", "tf_model.h5", "../model.safetensors"]).into();
            }
        }),
        ("redirect to a file", "redirects to `file:///etc/passwd`", |q, a| {
            if q.is("GET", WEIGHTS) {
                *a = Answer::new(302, "").with("Location", "file:///etc/passwd");
            }
        }),
        ("redirect loop", "redirects more than 5 times", |q, a| {
            if q.is("GET", WEIGHTS) {
                *a = Answer::new(302, "").with("Location", q.path.clone());
            }
        }),
    ];
    for (name, expected, lie) in lies {
        let (hub, cache) = (Hub::with(lie), Cache::new());
        let text = message(full(&cache.options(&hub)));
        assert!(text.contains(expected) && !text.contains('\x1b'), "{name}: {text}");
        assert!(!cache.weights().exists() && !cache.repo().join("refs/main").exists(), "{name}");
        cache.assert_nothing_outside();
        full(&cache.options(&Hub::good())).unwrap();
        cache.assert_complete();
    }
}

#[test]
fn an_index_cannot_name_files_elsewhere() {
    for shard in [
        "../x.safetensors",
        "/tmp/x.safetensors",
        "a/../../x.safetensors",
        "a\\x.safetensors",
        "config.json",
        "",
        "./a.bin",
        "absent.bin",
    ] {
        let index = serde_json::json!({ "weight_map": { "w": shard } }).to_string();
        let files: Files = vec![("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index.into_bytes())];
        let cache = Cache::new();
        let hub = Hub::start(move |asked| {
            let mut answer = serve(&files, asked);
            if asked.lists() && shard != "absent.bin" {
                answer.body = listing(COMMIT, &["config.json", "model.safetensors.index.json", shard]).into();
            }
            answer
        });
        let text = message(full(&cache.options(&hub)));
        let expected = if shard == "absent.bin" { "not in the repository" } else { "is not the name of a weight file" };
        assert!(text.contains(expected), "{shard}: {text}");
        assert_eq!(hub.files().len(), 2, "{shard}");
        cache.assert_nothing_outside();
    }
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let bearer = |asked: &Asked| asked.headers.get("authorization").cloned();
    let tokens = Arc::new(Mutex::new((BTreeSet::new(), BTreeSet::new())));
    let (at_hub, at_store) = (tokens.clone(), tokens.clone());
    // Another port is another host.
    let store = Hub::start(move |asked| {
        at_store.lock().unwrap().1.insert(bearer(asked));
        Answer::new(200, weights()).with("ETag", "\"an-etag-of-the-store\"")
    });
    let address = format!("{}/signed?a=b", store.url);
    let hub = Hub::with(move |asked, answer| {
        at_hub.lock().unwrap().0.insert(bearer(asked));
        // A renamed repository is redirected within the Hub, and the token goes along.
        if asked.is("HEAD", "config.json") {
            *answer = Answer::new(307, "moved").with("Location", format!("{}?moved", asked.path));
        }
        if asked.path.ends_with(WEIGHTS) {
            *answer = Answer::new(302, "")
                .with("Location", address.clone())
                .with("X-Linked-Etag", format!("\"{SHA256}\""))
                .with("X-Linked-Size", "200000");
        }
    });
    let cache = Cache::new();
    full(&HubOptions { token: Some("secret".into()), ..cache.options(&hub) }).unwrap();
    cache.assert_complete();
    let tokens = tokens.lock().unwrap();
    assert_eq!(tokens.0, BTreeSet::from([Some("Bearer secret".into())]));
    assert_eq!(tokens.1, BTreeSet::from([None]));
}

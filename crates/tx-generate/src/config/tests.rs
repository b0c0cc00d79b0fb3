//! What files and calls say, and what contradicts each other.

use std::fs;

use super::*;

/// The config of a folder with these files.
fn folder(files: &[(&str, &str)]) -> Result<GenerationConfig> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    GenerationConfig::from_folder(folder.path())
}

#[test]
fn files_win_over_defaults() {
    let text = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 3], "top_k": null,
        "pad_token_id": -1, "transformers_version": "4.31.0", "seed": 3, "early_stopping": "never"}"#;
    let config = folder(&[("generation_config.json", text), ("config.json", r#"{"eos_token_id": 9}"#)]).unwrap();
    let expected = GenerationConfig {
        do_sample: true,
        temperature: 0.6,
        top_p: 0.9,
        eos_token_id: vec![2, 3],
        early_stopping: EarlyStopping::Never,
        ..GenerationConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!((config.top_k, config.pad_id()), (50, Some(2)));
}

#[test]
fn without_a_file_the_model_config_serves() {
    let text = r#"{"model_type": "bart", "bos_token_id": 0, "eos_token_id": 2, "num_beams": 4, "min_length": 12,
        "force_bos_token_to_be_generated": true, "decoder": {"pad_token_id": 1, "num_beams": 6}}"#;
    let config = folder(&[("config.json", text)]).unwrap();
    assert_eq!((config.num_beams, config.min_length, config.pad_token_id), (4, 12, Some(1)));
    assert_eq!((config.forced_bos_token_id, config.eos_token_id), (Some(0), vec![2]));
    assert!(matches!(folder(&[]), Err(Error::MissingFile { .. })));
}

#[test]
fn errors_name_file_key_value_and_range() {
    let message = |text| folder(&[("generation_config.json", text)]).unwrap_err().to_string();
    let found = message(r#"{"top_p": 1.5}"#);
    assert!(found.ends_with("generation_config.json: `top_p`: 1.5 is out of range, expected 0 to 1"), "{found}");
    let found = message(r#"{"num_beams": "four"}"#);
    assert!(found.ends_with("`num_beams`: expected an integer of at least 0, found `four`"), "{found}");
    assert!(message(r#"{"penalty_alpha": 0.6}"#).contains("`penalty_alpha` is `0.6`, which is not supported"));
    assert!(message(r#"{"cache_implementation": "magic"}"#).contains("`magic`"));
}

#[test]
fn the_quantized_cache_has_8_bits() {
    let config = |text: &str| folder(&[("generation_config.json", text)]);
    let precision = |text: &str| config(text).unwrap().kv_precision();
    assert_eq!(precision(r#"{"cache_implementation": "dynamic", "cache_config": {"nbits": 4}}"#), KvPrecision::Float);
    for keys in ["{}", "null", r#"{"nbits": 8, "backend": "hqq"}"#, r#"{"nbits": null}"#] {
        let text = format!(r#"{{"cache_implementation": "quantized", "cache_config": {keys}}}"#);
        assert_eq!(precision(&text), KvPrecision::Int8, "{keys}");
    }
    for bits in ["4", "2", "\"8\"", "[8]"] {
        let text = format!(r#"{{"cache_implementation": "quantized", "cache_config": {{"nbits": {bits}}}}}"#);
        let error = config(&text).unwrap_err().to_string();
        assert!(error.contains("`cache_config.nbits` is") && error.contains("supported"), "{error}");
    }
    let mut config = GenerationConfig { cache_config: Some(serde_json::json!({"nbits": 4})), ..Default::default() };
    assert!(config.validate().is_ok());
    config.overrides(Overrides { cache_implementation: Some("quantized".into()), ..Overrides::default() });
    assert_eq!(config.validate().unwrap_err().to_string(), "cache_config: `nbits` of 4, expected 8");
}

#[test]
fn calls_win_also_with_the_neutral_value() {
    let mut config = GenerationConfig { num_beams: 4, repetition_penalty: 1.3, ..GenerationConfig::default() };
    config.overrides(Overrides {
        num_beams: Some(1),
        repetition_penalty: Some(1.0),
        max_new_tokens: Some(7),
        eos_token_id: Some(vec![5]),
        ..Overrides::default()
    });
    assert_eq!((config.num_beams, config.repetition_penalty, config.max_new_tokens), (1, 1.0, Some(7)));
    assert_eq!((config.max_length_for(3), config.is_eos(5), config.top_k), (10, true, 50));
}

#[test]
fn lengths() {
    let mut config = GenerationConfig::default();
    assert_eq!(config.max_length_for(5), 25);
    config.max_length = Some(12);
    assert_eq!(config.max_length_for(5), 12);
    config.max_new_tokens = Some(3);
    assert_eq!(config.max_length_for(5), 8);
}

#[test]
fn contradictions_are_named() {
    let message = |config: GenerationConfig| config.validate().unwrap_err().to_string();
    let default = GenerationConfig::default();
    assert!(default.validate().is_ok());
    assert_eq!(
        message(GenerationConfig { num_return_sequences: 3, ..default.clone() }),
        "num_return_sequences: 3, expected 1 for greedy search; set `do_sample` or `num_beams`"
    );
    assert_eq!(
        message(GenerationConfig { num_return_sequences: 3, num_beams: 2, ..default.clone() }),
        "num_return_sequences: 3, expected at most `num_beams`, which is 2"
    );
    assert_eq!(
        message(GenerationConfig { min_new_tokens: Some(9), max_new_tokens: Some(4), ..default.clone() }),
        "min_new_tokens: 9, expected at most `max_new_tokens`, which is 4"
    );
    assert_eq!(message(GenerationConfig { top_p: f64::NAN, ..default.clone() }), "top_p: NaN, expected 0 to 1");
    let groups = GenerationConfig { num_beams: 4, num_beam_groups: 2, ..default.clone() };
    assert!(message(groups).starts_with("diversity_penalty: 0, expected a number above 0"));
    let sampling = GenerationConfig { do_sample: true, temperature: 0.0, ..default.clone() };
    assert!(message(sampling.clone()).starts_with("temperature: 0.0, expected at least 1e-30"));
    let small = message(GenerationConfig { temperature: 1e-40, ..sampling.clone() });
    assert!(small.starts_with("temperature: 1e-40, expected at least 1e-30"), "{small}");
    assert!(GenerationConfig { temperature: 1e-30, ..sampling }.validate().is_ok());
    let forced = GenerationConfig { forced_eos_token_id: vec![2], suppress_tokens: vec![1, 2], ..default.clone() };
    assert!(message(forced).starts_with("forced_eos_token_id: [2], expected"));
    let bad = GenerationConfig { bad_words_ids: vec![vec![1, 99]], ..default };
    assert_eq!(bad.validate_ids(50).unwrap_err().to_string(), "bad_words_ids: token id 99, expected ids below 50");
}

#[test]
fn what_is_not_here_is_refused() {
    for (key, value) in [
        ("use_mtp", "true"),
        ("token_healing", "true"),
        ("assistant_early_exit", "4"),
        ("speculation_type", "\"dflash\""),
    ] {
        let text = format!(r#"{{"{key}": {value}}}"#);
        let error = folder(&[("generation_config.json", text.as_str())]).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(key), "{error}");
    }
    let healing = GenerationConfig { token_healing: true, ..GenerationConfig::default() };
    assert!(healing.validate().unwrap_err().to_string().starts_with("token_healing: true, expected false"));
    // Configs of models say this about their forward passes; a call would wait for them in vain.
    let text = r#"{"output_hidden_states": true, "output_attentions": true, "use_mtp": false}"#;
    let mut config = folder(&[("generation_config.json", text)]).unwrap();
    assert!(config.validate().is_ok());
    config.overrides(Overrides { output_hidden_states: Some(true), ..Overrides::default() });
    assert!(config.validate().unwrap_err().to_string().starts_with("output_hidden_states: true, expected false"));
}

#[test]
fn a_default_length_gives_way() {
    let mut config = GenerationConfig { min_new_tokens: Some(5), ..GenerationConfig::default() };
    config.or_new_tokens(3);
    assert_eq!(config.max_new_tokens, Some(5));
    config.or_new_tokens(9);
    assert_eq!(config.max_new_tokens, Some(5));
    let mut config = GenerationConfig { max_length: Some(7), ..GenerationConfig::default() };
    config.or_new_tokens(3);
    assert_eq!((config.max_new_tokens, config.has_length()), (None, true));
}

use super::*;

fn config(json: &str) -> Result<PeftConfig> {
    let Value::Object(keys) = serde_json::from_str(json).unwrap() else { panic!("an object") };
    PeftConfig::from_keys(Path::new(CONFIG_FILE), keys)
}

fn message(json: &str) -> String {
    config(json).unwrap_err().to_string()
}

#[test]
fn what_is_not_given_has_the_defaults_of_python() {
    for (name, count) in [("LORA", 41), ("IA3", 13), ("PROMPT_TUNING", 17), ("PREFIX_TUNING", 16)] {
        let found = config(&format!(r#"{{"peft_type": "{name}", "num_virtual_tokens": 3}}"#));
        match found {
            Ok(config) => assert_eq!(config.keys.len(), count, "{name}"),
            Err(error) => assert!(error.to_string().contains("num_virtual_tokens"), "{error}"),
        }
        let peft_type = METHODS.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!((peft_type.defaults().len(), peft_type.name()), (count, name));
    }
    let config = config(r#"{"peft_type": "lora", "lora_alpha": 16.0}"#).unwrap();
    let Method::Lora(lora) = &config.method else { panic!("{config:?}") };
    assert_eq!((lora.r, lora.lora_alpha, lora.bias, lora.use_dora), (8, 16.0, Biases::None, false));
    assert!(lora.target_modules.is_none() && config.to_json().contains("\"peft_type\": \"LORA\""));
}

#[test]
fn the_order_of_patterns_stays_and_keys_are_written_in_theirs() {
    let config =
        config(r#"{"rank_pattern": {"b": 2, "a": 1}, "peft_type": "LORA", "layers_to_transform": 3}"#).unwrap();
    let Method::Lora(lora) = &config.method else { panic!("{config:?}") };
    assert_eq!(lora.rank_pattern, [("b".to_owned(), 2), ("a".to_owned(), 1)]);
    assert_eq!(lora.layers_to_transform, [3]);
    let json = config.to_json();
    assert!(json.starts_with("{\n  \"alora_invocation_tokens\": null,\n  \"alpha_pattern\": {},"), "{json}");
    assert!(json.find("\"a\": 1") < json.find("\"b\": 2") && json.ends_with('}'), "{json}");
}

#[test]
fn errors_name_the_key_and_the_remedy() {
    let unknown = message(r#"{"peft_type": "LORA", "lora_alfa": 3}"#);
    assert!(unknown.contains("`lora_alfa`") && unknown.contains("did you mean `lora_alpha`?"), "{unknown}");
    let method = message(r#"{"peft_type": "LOHA"}"#);
    assert!(method.contains("`peft_type` is `LOHA`") && method.contains("IA3, LORA"), "{method}");
    assert!(message(r#"{"r": 4}"#).contains("`peft_type`: missing"));
    for (json, part) in [
        (r#""r": 0"#, "`r`: 0"),
        (r#""r": "four""#, "`r`"),
        (r#""lora_dropout": 1.0"#, "`lora_dropout`: 1"),
        (r#""bias": "some""#, "`bias`"),
        (r#""kasa_config": {"beta": 1}"#, "`kasa_config`"),
        (r#""target_modules": 3"#, "`target_modules`: expected a pattern"),
        (r#""target_modules": "a.*", "layers_to_transform": [1]"#, "`layers_to_transform`"),
        (r#""lora_bias": true, "use_dora": true"#, "`lora_bias`"),
    ] {
        let found = message(&format!(r#"{{"peft_type": "LORA", {json}}}"#));
        assert!(found.contains(part), "{found}");
    }
    let large =
        r#"{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 65536, "num_layers": 4096, "token_dim": 65536}"#;
    assert!(message(large).contains("too much"));
    assert!(config(r#"{"peft_type": "LORA", "new_config": null, "other": {}}"#).is_ok());
}

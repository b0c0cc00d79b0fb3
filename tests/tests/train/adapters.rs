//! Adapters in place of the model.

use super::*;

#[test]
fn a_head_for_other_classes_comes_with_its_adapter() -> Result<()> {
    let workshop = Workshop::pictures()?;
    let peft = ["--set", "peft.peft_type=LORA", "--set", "peft.target_modules=[\"query\", \"value\"]"];
    let flags = [&peft[..], &["--set", "ignore_mismatched_sizes=true"]].concat();
    workshop.trains("run", "", "max_steps = 3\nsave_strategy = 'no'", &flags)?;
    // The model still has its own head, which is for three classes.
    let path = |name: &str| workshop.path(name).to_string_lossy().into_owned();
    let (model, adapter, picture) = (path("model"), path("run"), path("train.jsonl/dark/0.png"));
    let args = ["run", "image-classification", "--model", &model, "--adapter", &adapter, &picture, "--json"];
    let ran = run(program(&args))?;
    ensure!(ran.code == Some(0) && ran.out.contains("LABEL_1") && !ran.out.contains("LABEL_2"), "{ran:?}");
    Ok(())
}

#[test]
fn virtual_tokens_take_room_from_the_texts() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let feelings = ["anger", "joy", "fear", "surprise"];
    let long = |row: usize| json!({ "text": "nobody cried ".repeat(100), "label": feelings[row % 4] });
    workshop.rows("train.jsonl", (0..8).map(long))?;
    let peft = |method: &str| format!("peft.peft_type={method}");
    for method in ["PROMPT_TUNING", "PREFIX_TUNING"] {
        let flags = ["--set", &peft(method), "--set", "peft.num_virtual_tokens=8"];
        workshop.trains(method, "", "max_steps = 2\nsave_strategy = 'no'", &flags)?;
    }
    // Python asks for the tokenizer of a text that a prompt began with.
    let (init, text) = ("peft.prompt_tuning_init=TEXT", "peft.prompt_tuning_init_text=the film was");
    let method = peft("PROMPT_TUNING");
    let set = [method.as_str(), "peft.num_virtual_tokens=3", init, text];
    let flags: Vec<&str> = set.into_iter().flat_map(|pair| ["--set", pair]).collect();
    workshop.trains("text", "", "max_steps = 1\nsave_strategy = 'no'", &flags)?;
    let config = workshop.json("text/adapter_config.json")?;
    ensure!(config["tokenizer_name_or_path"] == json!(workshop.path("model")), "{config}");
    let flags = [&flags[..], &["--set", "peft.tokenizer_kwargs={\"use_fast\": false}"]].concat();
    let line = workshop.fails("kwargs", "", "max_steps = 1", &flags)?;
    ensure!(line.contains("`tokenizer_kwargs`"), "{line}");
    Ok(())
}

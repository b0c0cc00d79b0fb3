use serde_json::json;
use tx_core::tokenizer::SpecialToken;

use super::*;

fn template(source: &str) -> ChatTemplate {
    let bos = Some(SpecialToken { text: "<s>".into(), id: 1 });
    ChatTemplate::new("chat_template.jinja", source, &SpecialTokens { bos, ..Default::default() }).unwrap()
}

fn render(source: &str, options: ChatOptions) -> Result<Rendered> {
    template(source).render(&[Message::user("Hi"), Message::assistant("Hé!")], &options)
}

fn text(source: &str) -> String {
    render(source, ChatOptions::default()).unwrap().text
}

fn options(json: Value) -> ChatOptions {
    serde_json::from_value(json).unwrap()
}

#[test]
fn variables_of_a_template() {
    assert_eq!(
        text("{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}"),
        "<s>user:Hi;assistant:Hé!;"
    );
    assert_eq!(text("{{ tools is none }} {{ documents is defined }} {{ eos_token is defined }}"), "True True False");
    let given =
        options(json!({"tools": [{"name": "f"}], "enable_thinking": false, "bos_token": "B", "n": 2.5, "big": 1e20}));
    assert_eq!(
        render("{{ tools[0].name }}{{ enable_thinking }}{{ bos_token }}{{ n }} {{ big|tojson }}", given).unwrap().text,
        "fFalseB2.5 1e+20"
    );
    let now = chrono::NaiveDate::from_ymd_opt(2026, 3, 14).unwrap().and_hms_opt(15, 9, 26);
    let options = ChatOptions { now, ..Default::default() };
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}", options).unwrap().text, "14 Mar 2026");
    assert_eq!(text("{{ strftime_now('%Y')|length }}"), "4");
}

#[test]
fn the_assistant_s_parts_are_marked() {
    let source = "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'assistant' %}\n{% generation %}\n{{ m.content }}.\n{% endgeneration %}\n{% else %}é{{ m.content }}\n{% endif %}\n{% endfor %}";
    let plain = render(source, ChatOptions::default()).unwrap();
    assert_eq!((plain.text.as_str(), plain.assistant.len()), ("<s>éHi\nHé!.\n", 0));
    let wanted = ChatOptions { return_assistant_tokens_mask: true, ..Default::default() };
    let marked = render(source, wanted.clone()).unwrap();
    assert_eq!(marked, Rendered { text: plain.text, assistant: std::iter::once(7..12).collect() });
    assert!(render("no such tag", wanted).unwrap().assistant.is_empty());

    let offsets = vec![(0, 3), (3, 4), (4, 7), (7, 9), (9, 12)];
    let encoding = Encoding { ids: vec![0; 5], offsets, ..Default::default() };
    assert_eq!(marked.assistant_mask(&encoding), [0, 0, 0, 1, 1]);
    let cut = Encoding { ids: vec![0; 4], offsets: encoding.offsets[..4].to_vec(), ..Default::default() };
    assert_eq!(marked.assistant_mask(&cut), [0, 0, 0, 1]);
}

#[test]
fn what_is_set_in_a_generation_stays_there() {
    let source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}";
    assert_eq!(text(source), "21");
}

#[test]
fn the_last_message_goes_on() {
    let source = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}>>{% endif %}";
    let open = |value: Value| render(source, options(json!({"continue_final_message": value})));
    assert_eq!(open(json!(true)).unwrap().text, "<Hi><Hé!");
    assert_eq!(open(json!("content")).unwrap().text, "<Hi><Hé!");
    assert_eq!(open(json!(false)).unwrap().text, "<Hi><Hé!>");
    assert!(matches!(open(json!("reasoning_content")), Err(Error::Input { .. })));
    let both = options(json!({"continue_final_message": true, "add_generation_prompt": true}));
    assert!(matches!(render(source, both), Err(Error::Input { .. })));
    assert_eq!(render(source, options(json!({"add_generation_prompt": true}))).unwrap().text, "<Hi><Hé!>>>");
}

#[test]
fn templates_are_chosen_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let list = json!({"chat_template": [
        {"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}, {"name": "broken", "template": "{% x %}"}
    ]});
    std::fs::write(folder.path().join("tokenizer_config.json"), list.to_string()).unwrap();
    let templates = ChatTemplate::from_folder(folder.path(), &SpecialTokens::default()).unwrap();
    assert_eq!(templates.names().collect::<Vec<_>>(), ["broken", "default", "tool_use"]);
    let render = |json: Value| templates.render(&[Message::user("Hi")], &options(json)).map(|rendered| rendered.text);
    assert_eq!(render(json!({})).unwrap(), "d");
    assert_eq!(render(json!({"tools": []})).unwrap(), "t");
    assert_eq!(render(json!({"tools": [], "chat_template": "default"})).unwrap(), "d");
    let broken = render(json!({"chat_template": "broken"})).unwrap_err().to_string();
    assert!(broken.contains("tokenizer_config.json: chat template, line 1: syntax error"), "{broken}");
    let unknown = render(json!({"chat_template": "tool_us"})).unwrap_err().to_string();
    assert_eq!(unknown, "chat_template: `tool_us`, expected `broken`, `default`, `tool_use`");
    assert!(templates.render(&[], &ChatOptions::default()).is_err());
    assert!(matches!(render(json!({"tools": ["f"]})), Err(Error::Input { .. })));

    let empty = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::find(empty.path(), &SpecialTokens::default()).unwrap().is_none());
    let missing = ChatTemplate::from_folder(empty.path(), &SpecialTokens::default()).unwrap_err();
    assert!(matches!(missing, Error::MissingFile { .. }), "{missing}");
}

#[test]
fn the_template_s_own_words_are_passed_on() {
    let source =
        "{% if messages[0].role != 'system' %}{{ raise_exception('No system: ' + messages[0].role) }}{% endif %}";
    let error = render(source, ChatOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "chat_template.jinja: chat template, line 1: No system: user");
    assert!(matches!(error, Error::Template { line: Some(1), .. }));
}

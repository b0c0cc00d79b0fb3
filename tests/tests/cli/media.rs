//! `tx run` and `tx embed` on pictures and sounds: what is printed is what the pipelines give, and what is wrong with a
//! file is said in one line.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tx_audio::pipelines::{AutomaticSpeechRecognitionOptions, AutomaticSpeechRecognitionPipeline, ReturnTimestamps};
use tx_core::pipeline::Pipeline;
use tx_core::registry::LoadOptions;
use tx_tests::models;
use tx_vision::image::Image;
use tx_vision::models::IMAGE_CLASSIFICATION;
use tx_vision::pipelines::{ImageClassificationPipeline, ProcessedModel};

use crate::program::{Model, assert_close, data, fails, succeeds, tx, tx_with};

/// A recorded case with the settings of its processor.
fn model(case: &str, processor: &Value) -> Model {
    let model = Model::of(&models().join(case));
    fs::write(model.file("preprocessor_config.json"), processor.to_string()).unwrap();
    model
}

fn square(class: &str, side: usize) -> Value {
    json!({ "image_processor_type": class, "size": { "height": side, "width": side } })
}

/// Of waveforms.
fn samples() -> Value {
    json!({ "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": true })
}

fn picture(name: &str) -> &'static str {
    data("images/pictures").join(name).to_str().unwrap().to_owned().leak()
}

fn sound(name: &str) -> &'static str {
    data("audio/sounds").join(name).to_str().unwrap().to_owned().leak()
}

fn json_of(args: &[&str]) -> Value {
    let text = succeeds(&[args, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The labels of each input of a list.
fn labels(results: &Value) -> Vec<&str> {
    results.as_array().unwrap().iter().map(|result| result["label"].as_str().unwrap()).collect()
}

#[test]
fn pictures_are_classified() {
    let model = model("vit/image-classification", &square("ViTImageProcessor", 16));
    let (flower, small) = (picture("flower.jpg"), picture("420.jpg"));
    let run = ["run", "image-classification", "--model", model.path()];
    let options = LoadOptions::default();
    let loaded = ProcessedModel::from_folder(IMAGE_CLASSIFICATION, model.path().as_ref(), &options).unwrap();
    let pipeline = ImageClassificationPipeline::new(loaded, Default::default()).unwrap();
    let expected = |path: &str| serde_json::to_value(pipeline.call(path).unwrap()).unwrap();

    assert_close(&json_of(&[&run[..], &[flower]].concat()), &expected(flower));
    assert_close(&json_of(&[&run[..], &[flower, small]].concat()), &json!([expected(flower), expected(small)]));
    let one = json_of(&[&run[..], &[flower, "--top-k", "1"]].concat());
    assert_eq!(labels(&one), labels(&expected(flower))[..1]);
    let sum = |results: &Value| results.as_array().unwrap().iter().map(|r| r["score"].as_f64().unwrap()).sum::<f64>();
    assert!((sum(&expected(flower)) - 1.0).abs() < 1e-5);
    let table = succeeds(&[&run[..], &[flower]].concat());
    assert!(table.contains(labels(&expected(flower))[0]) && table.contains('█'), "{table}");

    // Lines of standard input, and a folder, are lists.
    let lines = tx_with(&[&run[..], &["--json", "-"]].concat(), format!("{flower}\n{small}\n").as_bytes());
    assert!(lines.code == Some(0) && lines.err.is_empty(), "{lines:?}");
    assert_close(&serde_json::from_str(&lines.out).unwrap(), &json!([expected(flower), expected(small)]));
    let folder = tempfile::tempdir().unwrap();
    fs::copy(flower, folder.path().join("b.JPG")).unwrap();
    fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
    let found = json_of(&[&run[..], &[folder.path().to_str().unwrap()]].concat());
    assert_close(&found, &json!([expected(flower)]));
}

#[test]
fn pictures_have_features() {
    let model = model("vit/model", &square("ViTImageProcessor", 16));
    let run = ["run", "image-feature-extraction", "--model", model.path()];
    let flower = picture("flower.jpg");
    let features = json_of(&[&run[..], &[flower]].concat());
    let (rows, row) = (features[0].as_array().unwrap(), features[0][0].as_array().unwrap());
    assert_eq!((features.as_array().unwrap().len(), rows.len(), row.len()), (1, 17, 16));
    let pooled = json_of(&[&run[..], &[flower, "--pool"]].concat());
    assert_eq!(pooled[0].as_array().unwrap().len(), 16);
    let table = succeeds(&[&run[..], &[flower]].concat());
    assert!(table.contains("17 x 16"), "{table}");
}

#[test]
fn objects_are_found_and_drawn() {
    let settings = json!({
        "image_processor_type": "DetrImageProcessor",
        "size": { "shortest_edge": 32, "longest_edge": 64 },
    });
    let model = model("detr/object-detection", &settings);
    let flower = picture("flower.jpg");
    let run = ["run", "object-detection", "--model", model.path()];
    let drawn = model.string("drawn.png");
    let drawn = drawn.as_str();
    let objects = json_of(&[&run[..], &[flower, "--threshold", "0", "--output", drawn]].concat());
    let objects = objects.as_array().unwrap();
    assert!(!objects.is_empty());
    for object in objects {
        let keys: Vec<_> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["score", "label", "box"]);
        assert!(["xmin", "ymin", "xmax", "ymax"].iter().all(|side| object["box"][side].is_i64()), "{object}");
    }
    let (image, original) = (Image::open(Path::new(drawn)).unwrap(), Image::open(Path::new(flower)).unwrap());
    assert_eq!((image.width(), image.height()), (original.width(), original.height()));
    assert_ne!(image, original);
    assert_eq!(json_of(&[&run[..], &[flower, "--threshold", "1"]].concat()), json!([]));
    let table = succeeds(&[&run[..], &[flower, "--threshold", "0"]].concat());
    assert!(table.lines().next().unwrap().ends_with("ymax"), "{table}");

    let other = model.string("drawn.jpg");
    let message = fails(&[&run[..], &[flower, "--output", other.as_str()]].concat());
    assert!(message.contains("--output") && message.contains(".png"), "{message}");
    let message = fails(&[&run[..], &[drawn, "--output", drawn]].concat());
    assert!(message.contains("which is an input"), "{message}");
}

#[test]
fn segments_are_found_and_drawn() {
    let model = model("segformer/semantic-segmentation", &square("SegformerImageProcessor", 32));
    let run = ["run", "image-segmentation", "--model", model.path()];
    let pictures = [picture("flower.jpg"), picture("420.jpg")];
    let out = model.file("drawn");
    let found = json_of(&[&run[..], &[pictures[0], pictures[1], "--output", out.to_str().unwrap()]].concat());
    assert_eq!(found.as_array().unwrap().len(), 2);
    for segment in found[0].as_array().unwrap() {
        assert!(segment["score"].is_null() && segment["label"].is_string(), "{segment}");
        assert!(segment["mask"].as_str().unwrap().starts_with("iVBOR"), "{segment}");
    }
    for (name, picture) in ["flower.png", "420.png"].iter().zip(&pictures) {
        let [drawn, original] = [out.join(name), picture.into()].map(|path| Image::open(&path).unwrap());
        assert_eq!((drawn.width(), drawn.height()), (original.width(), original.height()));
    }
    let table = succeeds(&[&run[..], &[pictures[0]]].concat());
    assert!(table.contains(" %"), "{table}");
    let message = fails(&[&run[..], &[pictures[0], "--subtask", "panoptic"]].concat());
    assert!(message.contains("subtask"), "{message}");
}

#[test]
fn sounds_are_classified() {
    let model = model("wav2vec2/sequence-classification", &samples());
    let run = ["run", "audio-classification", "--model", model.path()];
    let found = json_of(&[&run[..], &[sound("speech.wav")]].concat());
    let keys: Vec<_> = found[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["score", "label"]);
    assert_eq!(labels(&found).len(), 3);
    let two = json_of(&[&run[..], &[sound("speech.wav"), sound("stereo.flac"), "--top-k", "2"]].concat());
    assert_eq!(two.as_array().unwrap().len(), 2);
    assert_eq!(labels(&two[0]), labels(&found)[..2]);
    let table = succeeds(&[&run[..], &[sound("speech.wav")]].concat());
    assert!(table.contains(labels(&found)[0]), "{table}");
}

#[test]
fn speech_is_written_down() {
    let model = model("wav2vec2/ctc", &samples());
    let vocabulary = json!({
        "<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6, "c": 7, "d": 8, "e": 9, "f": 10, "g": 11,
    });
    fs::write(model.file("vocab.json"), vocabulary.to_string()).unwrap();
    let run = ["run", "automatic-speech-recognition", "--model", model.path()];
    let speech = sound("speech.wav");
    let pipeline = AutomaticSpeechRecognitionPipeline::from_folder(
        model.path().as_ref(),
        &LoadOptions::default(),
        Default::default(),
    )
    .unwrap();
    let text = pipeline.call(speech).unwrap().text;
    assert_eq!(json_of(&[&run[..], &[speech]].concat()), json!({ "text": text }));
    assert_eq!(succeeds(&[&run[..], &[speech]].concat()), format!("{}\n", text.trim()));
    assert_eq!(json_of(&[&run[..], &[speech, speech]].concat()), json!([{ "text": text }, { "text": text }]));

    let options = AutomaticSpeechRecognitionOptions {
        return_timestamps: Some(ReturnTimestamps::Char),
        chunk_length_s: Some(0.5),
        stride_length_s: Some([0.1, 0.1]),
        ..Default::default()
    };
    let timed = pipeline.with_options(options).unwrap().call(speech).unwrap();
    let args = ["--return-timestamps", "char", "--chunk-length-s", "0.5", "--stride-length-s", "0.1,0.1"];
    let found = json_of(&[&run[..], &[speech], &args].concat());
    assert_eq!(found, serde_json::to_value(&timed).unwrap());
    let table = succeeds(&[&run[..], &[speech], &args].concat());
    assert!(table.starts_with("from") && !table.contains("language"), "{table}");

    let subtitles = model.string("speech.vtt");
    succeeds(&[&run[..], &[speech, "--output", subtitles.as_str()]].concat());
    assert!(fs::read_to_string(&subtitles).unwrap().starts_with("WEBVTT\n"));
    let folder = model.file("texts");
    let output = ["--output", folder.to_str().unwrap(), "--output-format", "srt"];
    succeeds(&[&run[..], &[speech, sound("mono.wav")], &output].concat());
    assert!(folder.join("speech.srt").is_file() && folder.join("mono.srt").is_file());

    let document = model.string("x.doc");
    for (extra, expected) in [
        (vec!["--language", "en"], "--language: given for a CTC model"),
        (vec!["--return-timestamps"], "return_timestamps: segments of a CTC model"),
        (vec!["--output", document.as_str()], "--output"),
        (vec!["--chunk-length-s", "9", "--stride-length-s", "1,2,3"], "--stride-length-s: 3 numbers"),
        (vec!["--chunk-length-s", "0", "--stride-length-s", "1"], "stride_length_s: given without `chunk_length_s`"),
        (vec!["--chunk-length-s=-1"], "chunk_length_s"),
        (vec!["--seed", "1", "--temperature", "1"], "given for a CTC model"),
    ] {
        let message = fails(&[&run[..], &[speech], &extra[..]].concat());
        assert!(message.contains(expected), "{extra:?}: {message}");
    }
    assert_eq!(tx(&[&run[..], &[speech, "--return-timestamps", "sentence"]].concat()).code, Some(2));
    assert_eq!(tx(&[&run[..], &[speech, "--stride-length-s", "1"]].concat()).code, Some(2));
}

#[test]
fn what_whisper_draws_depends_on_the_seed() {
    let model = Model::of_data("whisper/multilingual");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(data("whisper").join(name), model.file(name)).unwrap();
    }
    let run = ["run", "automatic-speech-recognition", "--model", model.path(), sound("speech.wav")];
    let drawn = |seed: &str| {
        let args = ["--temperature", "1.5", "--max-new-tokens", "12", "--seed", seed];
        json_of(&[&run[..], &args].concat())
    };
    let texts = ["1", "2", "3"].map(drawn);
    assert_eq!(drawn("1"), texts[0]);
    assert!(texts[1..].iter().any(|text| *text != texts[0]), "{texts:?}");
    for (extra, expected) in [
        (&["--seed", "1"][..], "--seed: given where nothing is drawn"),
        (&["--seed", "1", "--temperature", "0"][..], "--seed: given where nothing is drawn"),
        (&["--max-new-tokens", "0"][..], "max_new_tokens: 0, expected 1 to "),
    ] {
        let message = fails(&[&run[..], extra].concat());
        assert!(message.contains(expected), "{extra:?}: {message}");
    }
}

/// CLIP with a tokenizer of a few words.
fn clip() -> Model {
    let settings = json!({
        "image_processor_type": "CLIPImageProcessor",
        "size": { "shortest_edge": 12 },
        "crop_size": { "height": 12, "width": 12 },
    });
    let model = model("clip/model", &settings);
    let words = ["<pad>", "<unk>", "this", "is", "a", "photo", "of", "cat", "dog", "flower", "."];
    let mut vocabulary: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect();
    vocabulary.insert("<end>".into(), json!(59));
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "lstrip": false, "rstrip": false, "single_word": false, "normalized": false,
        })
    };
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "<unk>"), special(59, "<end>")],
        "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text("A"), { "SpecialToken": { "id": "<end>", "type_id": 0 } }],
            "pair": [text("A"), text("B")],
            "special_tokens": { "<end>": { "id": "<end>", "ids": [59], "tokens": ["<end>"] } },
        },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    fs::write(model.file("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>" });
    fs::write(model.file("tokenizer_config.json"), settings.to_string()).unwrap();
    model
}

#[test]
fn pictures_are_compared_with_labels() {
    let model = clip();
    let run = ["run", "zero-shot-image-classification", "--model", model.path(), "--candidate-labels", "cat, dog"];
    let flower = picture("flower.jpg");
    let found = json_of(&[&run[..], &[flower]].concat());
    let mut names = labels(&found);
    names.sort_unstable();
    assert_eq!(names, ["cat", "dog"]);
    let scores: Vec<f64> = found.as_array().unwrap().iter().map(|label| label["score"].as_f64().unwrap()).collect();
    assert!(scores[0] >= scores[1] && (scores[0] + scores[1] - 1.0).abs() < 1e-5, "{scores:?}");
    let other = json_of(&[&run[..], &[flower, "--hypothesis-template", "a {}"]].concat());
    assert_ne!(other, found);
    let message = fails(&[&run[..], &[flower, "--hypothesis-template", "a cat"]].concat());
    assert!(message.contains("hypothesis_template"), "{message}");
    let message = fails(&["run", "zero-shot-image-classification", "--model", model.path(), flower]);
    assert!(message.contains("--candidate-labels"), "{message}");
}

#[test]
fn texts_and_pictures_have_vectors_of_one_space() {
    let model = clip();
    let (flower, small) = (picture("flower.jpg"), picture("420.jpg"));
    let embed = ["embed", "--model", model.path(), "a photo of a flower", "--image", flower, small];
    let vectors = json_of(&embed);
    let lengths: Vec<usize> = vectors.as_array().unwrap().iter().map(|v| v.as_array().unwrap().len()).collect();
    assert_eq!(lengths, [12; 3]);
    let square = |vector: &Value| vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum::<f64>();
    assert!(vectors.as_array().unwrap().iter().all(|vector| (square(vector) - 1.0).abs() < 1e-5));
    // Alone they are the same.
    let text = json_of(&["embed", "--model", model.path(), "a photo of a flower"]);
    assert_close(&text[0], &vectors[0]);
    let table = succeeds(&embed);
    assert!(table.contains("cosine") && table.contains("flower.jpg"), "{table}");

    let message = fails(&["embed", "--model", model.path(), "--audio", sound("mono.wav")]);
    assert!(message.contains("a sound"), "{message}");
    let message = fails(&["embed", "--model", model.path(), "--prompt", "x", "--image", flower]);
    assert!(message.starts_with("error: --prompt: "), "{message}");
    let text = Model::of_case("model");
    let message = fails(&["embed", "--model", text.path(), "--image", flower]);
    assert!(message.contains("`bert` has no zero-shot image classification head"), "{message}");
}

#[test]
fn info_says_what_can_be_done_with_pictures_and_sounds() {
    for (case, command) in [
        ("vit/image-classification", "tx run image-classification"),
        ("detr/object-detection", "tx run object-detection"),
        ("segformer/semantic-segmentation", "tx run image-segmentation"),
        ("wav2vec2/ctc", "tx run automatic-speech-recognition"),
        ("whisper/conditional-generation", "tx run automatic-speech-recognition"),
    ] {
        let model = Model::of(&models().join(case));
        let document = json_of(&["info", model.path()]);
        assert_eq!(document["supported"], true, "{case}");
        assert!(document["commands"].as_array().unwrap().contains(&json!(command)), "{case}: {document}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_in_one_line() {
    let vit = model("vit/image-classification", &square("ViTImageProcessor", 16));
    let (bert, flower) = (Model::of_case("masked-lm"), picture("flower.jpg"));
    let classify = ["run", "image-classification", "--model", vit.path()];
    let run = |args: &[&str]| fails(&[&classify[..], args].concat());
    let (notes, absent) = (vit.string("notes.png"), vit.string("absent.png"));
    fs::write(&notes, "no picture").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (file, expected) in [
        (notes.as_str(), "notes.png"),
        (sound("mono.wav"), "mono.wav"),
        (absent.as_str(), "absent.png"),
        ("https://example.org/cat.png", "download it first"),
        (folder.path().to_str().unwrap(), "a picture in it"),
    ] {
        let message = run(&[file]);
        assert!(message.contains(expected), "{message}");
    }
    assert!(run(&[]).contains("INPUT: nothing, expected a picture"), "{}", run(&[]));
    assert!(run(&[flower, "--threshold", "0.5"]).contains("--threshold: given for `image-classification`"));

    let message = fails(&["run", "image-classification", "--model", bert.path(), flower]);
    assert!(message.contains("`bert` has no image classification head; it has: base model"), "{message}");
    let message = fails(&["run", "fill-mask", "--model", vit.path(), "text"]);
    assert!(message.contains("`vit` has no masked language model head"), "{message}");
    let message = fails(&["run", "automatic-speech-recognition", "--model", vit.path(), sound("mono.wav")]);
    assert!(message.contains("`vit` has no speech recognition by CTC head"), "{message}");
    let message = fails(&["run", "object-detection", flower]);
    assert!(message.contains("--model: none for object-detection") && message.contains("tx download"), "{message}");

    fs::remove_file(vit.file("preprocessor_config.json")).unwrap();
    assert!(run(&[flower]).contains("preprocessor_config.json"), "{}", run(&[flower]));
    let wav2vec2 = model("wav2vec2/sequence-classification", &samples());
    let message = fails(&["run", "audio-classification", "--model", wav2vec2.path(), flower]);
    assert!(message.contains("flower.jpg"), "{message}");
}

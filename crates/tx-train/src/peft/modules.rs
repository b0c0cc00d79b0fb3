//! Which modules of a model an adapter is on.
//!
//! Reference: peft 0.21.2, `tuners/tuners_utils.py` (`check_target_module_exists`), `utils/other.py`. Patterns are Python's
//! regular expressions.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use burn::module::ParamId;
use onig::{MatchParam, Regex, RegexOptions, SearchOptions, Syntax};
use tx_core::error::{Error, Result, nearest};
use tx_core::registry::Adaptable;
use tx_core::task::AnyTensor;

use super::config::{LoraConfig, Modules, PeftConfig};

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 16 << 10;
/// The most steps that matching a name may go back.
const MAX_RETRIES: u32 = 1_000_000;
/// From so many names on, those that their last parts tell apart from others are written as these.
const MANY: usize = 20;

/// A module of the model that has parameters of its own.
#[derive(Debug)]
pub struct Module {
    /// Its name, as Python's `named_modules` has it.
    pub path: String,
    /// Its type.
    pub layer: String,
    /// Its parameters.
    pub parts: Vec<Part>,
}

/// A parameter of a module.
#[derive(Debug)]
pub struct Part {
    /// Its field in the module.
    pub field: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: ParamId,
    /// Its value.
    pub tensor: AnyTensor,
}

/// What an adapter can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A weight `[out, in]`.
    Linear,
    /// A weight `[in, out]`: HF's `Conv1D`.
    Transposed,
    /// A table `[rows, hidden]`.
    Embedding,
}

impl Module {
    /// A parameter by its field.
    pub fn part(&self, field: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.field == field)
    }

    /// What an adapter would be on, with its weight.
    pub fn kind(&self) -> Option<(Kind, &Part)> {
        let kind = match self.layer.as_str() {
            "Linear" => Kind::Linear,
            "Conv1dLinear" => Kind::Transposed,
            "Embedding" => Kind::Embedding,
            _ => return None,
        };
        let weight = self.part("weight").filter(|part| part.tensor.shape().len() == 2)?;
        Some((kind, weight))
    }
}

impl Kind {
    /// Inputs and outputs of a weight; those of a table are its rows and their elements.
    pub fn sizes(self, weight: &AnyTensor) -> [usize; 2] {
        let [rows, columns] = weight.shape()[..] else { return [0, 0] };
        match self {
            Self::Linear => [columns, rows],
            // Quantized weights all lie one way.
            Self::Transposed if weight.is_quantized() => [columns, rows],
            Self::Transposed | Self::Embedding => [rows, columns],
        }
    }

    /// Whether the rows of the weight are inputs.
    pub fn is_transposed(self) -> bool {
        self != Self::Linear
    }
}

/// The modules of a model, in its order.
pub fn modules(model: &dyn Adaptable) -> Vec<Module> {
    let (mut modules, mut places) = (Vec::<Module>::new(), HashMap::new());
    model.visit_places(&mut |parameter| {
        let (path, field) = parameter.name.rsplit_once('.').unwrap_or(("", parameter.name.as_str()));
        let place = *places.entry((path.to_owned(), parameter.layer.clone())).or_insert_with(|| {
            modules.push(Module { path: path.to_owned(), layer: parameter.layer.clone(), parts: Vec::new() });
            modules.len() - 1
        });
        let (field, name) = (field.to_owned(), parameter.name.clone());
        modules[place].parts.push(Part { field, name, id: parameter.id, tensor: parameter.tensor });
    });
    modules
}

/// The layer whose rows are the vocabulary: what turns hidden states into scores of tokens.
pub fn output_embedding<'m>(model: &dyn Adaptable, modules: &'m [Module]) -> Option<&'m Module> {
    let vocabulary = model.config().get("vocab_size")?.as_u64()?;
    let scores = |module: &&Module| {
        module
            .kind()
            .is_some_and(|(kind, weight)| kind != Kind::Embedding && kind.sizes(&weight.tensor)[1] as u64 == vocabulary)
    };
    modules.iter().rev().find(scores)
}

/// The names of all linear layers but the head.
pub fn all_linear(model: &dyn Adaptable, modules: &[Module], classifies: bool) -> Vec<String> {
    let head = output_embedding(model, modules).map(|module| module.path.clone());
    let named = |name: &str| modules.iter().any(|module| module.path == name);
    let classifier = ["score", "classifier"].into_iter().find(|name| classifies && named(name));
    let head = head.or(classifier.map(str::to_owned));
    let linear = |module: &&Module| module.kind().is_some_and(|(kind, _)| kind != Kind::Embedding);
    let (targets, others): (Vec<_>, Vec<_>) =
        modules.iter().partition(|module| linear(module) && Some(&module.path) != head.as_ref());
    if targets.len() < MANY {
        return targets.into_iter().map(|module| module.path.clone()).collect();
    }
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let elsewhere: BTreeSet<String> = others.iter().map(|module| last(&module.path)).collect();
    let name = |module: &Module| Some(last(&module.path)).filter(|last| !elsewhere.contains(last));
    let names: BTreeSet<String> =
        targets.into_iter().map(|module| name(module).unwrap_or_else(|| module.path.clone())).collect();
    names.into_iter().collect()
}

/// A regular expression.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
}

impl Pattern {
    /// `key` is where it stands in the file `path`.
    fn new(path: &Path, key: &str, pattern: &str) -> Result<Self> {
        if pattern.len() > MAX_PATTERN {
            let reason = format_args!("a pattern of {} bytes, expected at most {MAX_PATTERN}", pattern.len());
            return Err(Error::config(path, key, reason));
        }
        let regex = Regex::with_options(pattern, RegexOptions::REGEX_OPTION_NONE, Syntax::python());
        let wrong = |error| Error::config(path, key, format_args!("`{pattern}` is no regular expression: {error}"));
        regex.map(|regex| Self { regex }).map_err(wrong)
    }

    /// Where a match that begins with the text ends; `None` if there is none, or if finding it takes too long.
    fn end(&self, text: &str) -> Option<usize> {
        let mut limits = MatchParam::default();
        limits.set_retry_limit_in_match(MAX_RETRIES);
        self.regex.match_with_param(text, 0, SearchOptions::SEARCH_OPTION_NONE, None, limits).ok().flatten()
    }
}

/// Names, or a pattern of whole names.
#[derive(Debug)]
enum Choice {
    Pattern(Pattern),
    Names(Vec<String>),
}

impl Choice {
    fn new(path: &Path, key: &str, modules: &Modules) -> Result<Self> {
        Ok(match modules {
            Modules::Pattern(pattern) => {
                Pattern::new(path, key, pattern)?;
                Self::Pattern(Pattern::new(path, key, &format!(r"(?:{pattern})(?![\s\S])"))?)
            }
            Modules::Names(names) => Self::Names(names.clone()),
        })
    }

    fn has(&self, module: &str) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.end(module).is_some(),
            Self::Names(names) => names.iter().any(|name| is_named(module, name)),
        }
    }
}

/// Whether a module has a name, or ends in it after a dot.
fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Decides which modules an adapter is on.
#[derive(Debug)]
pub struct Matcher {
    exclude: Option<Choice>,
    saved: Vec<Pattern>,
    target: Choice,
    layers: Vec<usize>,
    /// What stands before the number of a block.
    before: Vec<Pattern>,
}

impl Matcher {
    /// That of a config whose `target_modules` are these.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no regular expression.
    pub fn new(
        config: &PeftConfig,
        target: &Modules,
        exclude: Option<&Modules>,
        lora: Option<&LoraConfig>,
    ) -> Result<Self> {
        let path = config.path();
        let saved = config.modules_to_save.iter();
        let saved = saved.map(|name| Pattern::new(path, "modules_to_save", &format!(r"(^|.*\.){name}($|\..*)")));
        let before = match lora.map(|lora| lora.layers_pattern.as_slice()).unwrap_or_default() {
            [] => vec![Pattern::new(path, "layers_pattern", r".*?\.[^.]*\.(?=\d+\.)")],
            names => {
                let one =
                    |name: &String| Pattern::new(path, "layers_pattern", &format!(r"(?:^|.*?\.)(?:{name})\.(?=\d+\.)"));
                names.iter().map(one).collect()
            }
        };
        Ok(Self {
            exclude: exclude.map(|modules| Choice::new(path, "exclude_modules", modules)).transpose()?,
            saved: saved.collect::<Result<_>>()?,
            target: Choice::new(path, "target_modules", target)?,
            layers: lora.map(|lora| lora.layers_to_transform.clone()).unwrap_or_default(),
            before: before.into_iter().collect::<Result<_>>()?,
        })
    }

    /// Whether the adapter is on a module.
    pub fn is_target(&self, module: &str) -> bool {
        let left_out = self.exclude.as_ref().is_some_and(|exclude| exclude.has(module))
            || self.saved.iter().any(|pattern| pattern.end(module).is_some());
        if left_out || !self.target.has(module) {
            return false;
        }
        // A whole name needs no number.
        let whole = matches!(&self.target, Choice::Names(names) if names.iter().any(|name| name == module));
        whole || self.layers.is_empty() || self.number(module).is_some_and(|number| self.layers.contains(&number))
    }

    /// The number of the block that a module is in.
    fn number(&self, module: &str) -> Option<usize> {
        let start = self.before.iter().find_map(|pattern| pattern.end(module))?;
        module[start..].split('.').next()?.parse().ok()
    }
}

/// The modules that an adapter is on, in the order of the model.
///
/// # Errors
/// [`Error::Config`] if there are none, with the nearest name, or if `each_name` and one of the names is of none;
/// [`Error::Unsupported`] for a module that it cannot be on.
pub fn targets<'m>(
    config: &PeftConfig,
    matcher: &Matcher,
    modules: &'m [Module],
    class: &str,
    each_name: bool,
) -> Result<Vec<&'m Module>> {
    let found: Vec<&Module> = modules.iter().filter(|module| matcher.is_target(&module.path)).collect();
    if let Some(module) = found.iter().find(|module| module.kind().is_none()) {
        return Err(Error::Unsupported {
            path: config.path().to_path_buf(),
            key: "target_modules".into(),
            value: format!("{}, of the type {}", module.path, module.layer),
            supported: "linear layers and embeddings".into(),
        });
    }
    let names = match &matcher.target {
        Choice::Names(names) => names.as_slice(),
        Choice::Pattern(_) => &[],
    };
    let lost = names.iter().find(|name| each_name && !modules.iter().any(|module| is_named(&module.path, name)));
    if let Some(name) = lost.or(names.first().filter(|_| found.is_empty())) {
        return Err(Error::config(config.path(), "target_modules", no_match(name, modules, class)));
    }
    if found.is_empty() {
        let reason = format_args!("matches no layer of `{class}`; its layers are {}", ends(modules).join(", "));
        return Err(Error::config(config.path(), "target_modules", reason));
    }
    Ok(found)
}

fn no_match(name: &str, modules: &[Module], class: &str) -> String {
    let ends = ends(modules);
    let last = name.rsplit('.').next().unwrap_or(name);
    match nearest(last, ends.iter().map(String::as_str)) {
        Some(close) if close != last => format!("`{name}` is no layer of `{class}`; did you mean `{close}`?"),
        _ => format!("`{name}` is no layer of `{class}`; its layers are {}", ends.join(", ")),
    }
}

/// The last parts of the names of layers that adapters can be on.
fn ends(modules: &[Module]) -> Vec<String> {
    let layers = modules.iter().filter(|module| module.kind().is_some());
    let ends: BTreeSet<&str> = layers.filter_map(|module| module.path.rsplit('.').next()).collect();
    ends.into_iter().map(str::to_owned).collect()
}

/// Whether a module, or one that it is in, is saved with the adapter: their names end in one of these, without a dot.
pub fn is_saved(module: &str, names: &[String]) -> bool {
    let ends = module.match_indices('.').map(|(at, _)| at).chain([module.len()]);
    ends.map(|end| &module[..end]).any(|outer| names.iter().any(|name| outer.ends_with(name.as_str())))
}

/// The first value whose pattern fits the name of a module.
///
/// # Errors
/// [`Error::Config`] for what is no regular expression.
pub fn by_pattern<T: Copy>(path: &Path, key: &str, patterns: &[(String, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if Pattern::new(path, key, &format!(r"(.*\.)?({pattern})$"))?.end(module).is_some() {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Whether the name of a module ends in one of these, without a dot, or is matched whole.
///
/// # Errors
/// [`Error::Config`] for what is no regular expression.
pub fn is_feedforward(path: &Path, modules: Option<&Modules>, module: &str) -> Result<bool> {
    Ok(match modules {
        None => false,
        Some(Modules::Names(names)) => names.iter().any(|name| module.ends_with(name.as_str())),
        Some(pattern) => Choice::new(path, "feedforward_modules", pattern)?.has(module),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::config::Method;
    use super::*;

    fn matcher(json: &str) -> Result<Matcher> {
        let Value::Object(keys) = serde_json::from_str(json).unwrap() else { panic!("an object") };
        let config = PeftConfig::from_keys(Path::new("adapter_config.json"), keys)?;
        let Method::Lora(lora) = &config.method else { panic!("{config:?}") };
        Matcher::new(&config, lora.target_modules.as_ref().unwrap(), lora.exclude_modules.as_ref(), Some(lora))
    }

    fn check(keys: &str, yes: &[&str], no: &[&str]) {
        let matcher = matcher(&format!(r#"{{"peft_type": "LORA", {keys}}}"#)).unwrap();
        for (modules, expected) in [(yes, true), (no, false)] {
            for module in modules {
                assert_eq!(matcher.is_target(module), expected, "{keys}: {module}");
            }
        }
    }

    #[test]
    fn modules_are_found_as_python_finds_them() {
        let names = r#""target_modules": ["q_proj", "a.b"]"#;
        check(names, &["x.q_proj", "q_proj", "a.b", "x.a.b"], &["xq_proj", "q_proj.x", "b"]);
        check(r#""target_modules": ".*\\.1\\.(q|v)""#, &["x.1.q"], &["x.1.qq", "x.11.q", "x.1.q\n"]);
        check(r#""target_modules": "(?!.*vision).*q""#, &["text.q"], &["vision.q"]);
        check(r#""target_modules": ["q"], "exclude_modules": ["1.q"]"#, &["x.0.q"], &["x.1.q"]);
        check(r#""target_modules": ["q", "c"], "modules_to_save": ["c"]"#, &["x.q"], &["x.c", "c.q"]);
        let numbers = r#""target_modules": ["q"], "layers_to_transform": [1, 3]"#;
        check(numbers, &["m.h.1.q", "m.h.3.x.5.q"], &["m.h.2.q", "q.x", "1.q"]);
        check(
            r#""target_modules": ["q", "m.h.2.q"], "layers_to_transform": 1, "layers_pattern": "h""#,
            &["m.h.1.q", "h.1.q", "m.h.2.q"],
            &["m.k.1.q", "m.h.3.q"],
        );
    }

    #[test]
    fn patterns_that_do_not_end_match_nothing() {
        check(r#""target_modules": "(a*)*b""#, &["aab"], &[&"a".repeat(60)]);
        let error = matcher(r#"{"peft_type": "LORA", "target_modules": "(a"}"#).unwrap_err().to_string();
        assert!(error.contains("`target_modules`: `(a`") && error.contains("no regular expression"), "{error}");
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let ranks = [(r"layers\.1\..*v_proj".to_owned(), 1), ("v_proj".to_owned(), 2), ("^m.x".to_owned(), 3)];
        let rank = |module: &str| by_pattern(Path::new("c"), "rank_pattern", &ranks, module).unwrap();
        assert_eq!(rank("model.layers.1.self_attn.v_proj"), Some(1));
        assert_eq!(rank("model.layers.0.self_attn.v_proj"), Some(2));
        assert_eq!((rank("m.x"), rank("a.q_proj"), rank("uv_proj")), (Some(3), None, None));
    }

    #[test]
    fn saved_modules_need_no_dot() {
        let names = ["norm".to_owned(), "classifier".to_owned()];
        assert!(is_saved("model.layers.0.input_layernorm", &names) && is_saved("classifier.dense", &names));
        assert!(!is_saved("model.norms.0", &names) && !is_saved("x.classifiers", &names));
    }
}

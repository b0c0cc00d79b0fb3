//! The template engine, set up as transformers 5.23 sets up Jinja, and bounded.
//!
//! Templates come from repositories, so nothing they do may take the program down. The engine's fuel bounds time and
//! memory together; the output has a bound of its own; there is no loader. Work is done on a thread of its own, whose
//! stack has room for the deepest nesting that the source and the fuel allow, because a stack that overflows cannot be
//! caught.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value};
use tx_core::error::{Error, Result};

use super::python;
use super::rewrite::{GENERATION, STORED, prepare};

/// The longest source, in bytes.
pub(super) const MAX_SOURCE: usize = 1 << 20;
/// The longest output, in bytes.
const MAX_OUTPUT: usize = 16 << 20;
/// How much one conversation may take: a unit is an instruction, or 64 bytes of data.
const FUEL: u64 = 2_000_000;
/// The stack, in bytes; what is not used is never given memory.
const STACK: usize = 256 << 20;
/// How many values the check of a namespace visits for one unit of fuel.
const VISITS_PER_FUEL: u64 = 16;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 2000;

/// The template's name inside the engine.
const NAME: &str = "chat_template";
/// The variable that holds the marks of [`GENERATION`], if there are to be any.
pub(super) const MARKS: &str = "__generation__";

/// A compiled template.
pub(super) struct Engine {
    environment: Environment<'static>,
    path: PathBuf,
    /// Whether the template says which parts are the assistant's.
    pub has_generation: bool,
}

impl Engine {
    /// Compiles a template whose lines end with `\n`.
    pub fn compile(path: &Path, source: &str) -> Result<Self> {
        let error = |line, reason| Error::Template { path: path.to_path_buf(), line, reason };
        if source.len() > MAX_SOURCE {
            return Err(error(None, format!("{} bytes, expected at most {MAX_SOURCE}", source.len())));
        }
        let prepared = prepare(source).map_err(|refused| error(Some(refused.line), refused.reason))?;
        let compile = move || -> Result<Environment<'static>> {
            let mut environment = environment().map_err(|e| describe(path, &e))?;
            environment.add_template_owned(NAME, prepared.source).map_err(|e| describe(path, &e))?;
            Ok(environment)
        };
        let environment = on_deep_stack(path, compile)?;
        Ok(Self { environment, path: path.to_path_buf(), has_generation: prepared.has_generation })
    }

    /// Renders the template with the variables that `variables` gives.
    pub fn render(&self, variables: impl FnOnce() -> Vec<(String, Value)> + Send) -> Result<String> {
        on_deep_stack(&self.path, || {
            let template = self.environment.get_template(NAME).map_err(|e| describe(&self.path, &e))?;
            let mut output = Output::default();
            let rendered = template.render_captured_to(Value::from_pairs(variables()), &mut output).map(drop);
            let error = |reason: String| Error::Template { path: self.path.clone(), line: None, reason };
            if output.full {
                return Err(error(format!("the text is longer than {MAX_OUTPUT} bytes")));
            }
            rendered.map_err(|e| describe(&self.path, &e))?;
            String::from_utf8(output.text).map_err(|_| error("the text is not UTF-8".to_owned()))
        })
    }
}

/// Runs `work` on a thread with a stack that is deep enough for what hostile templates nest.
fn on_deep_stack<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = |reason: String| Error::Template { path: path.to_path_buf(), line: None, reason };
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("chat template".to_owned()).stack_size(STACK);
        let thread = builder.spawn_scoped(scope, work).map_err(|e| failed(format!("no thread for it: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the template engine failed on it".to_owned())))
    })
}

/// Jinja as transformers sets it up.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    // Errors then name the variable that is undefined.
    environment.set_debug(true);
    environment.set_unknown_method_callback(python::method);
    environment.remove_global("debug");
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("default", python::default);
    environment.add_filter("d", python::default);
    environment.add_filter("indent", python::indent);
    environment.add_filter(GENERATION, mark);
    environment.add_filter(STORED, stored);
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("iterable", python::is_iterable);
    Ok(environment)
}

/// Says that a message is the template's own.
#[derive(Debug)]
struct Raised;

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

/// Puts marks around what the assistant says, if they are asked for.
fn mark(state: &State, text: &Value) -> Value {
    let marks = state.lookup(MARKS);
    let mut marks = marks.as_ref().and_then(Value::as_str).unwrap_or_default().chars();
    match (marks.next(), marks.next()) {
        (Some(start), Some(end)) => Value::from(format!("{start}{text}{end}")),
        _ => text.clone(),
    }
}

/// Refuses a namespace, on whatever level, as the value of a namespace: it could hold itself.
fn stored(state: &State, value: &Value) -> Result<Value, minijinja::Error> {
    let mut visits = 0_u64;
    let mut open = vec![value.clone()];
    while let Some(value) = open.pop() {
        let Some(object) = value.as_object() else { continue };
        if object.type_name().ends_with("::Namespace") {
            let reason = "a namespace cannot be stored in a namespace";
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason));
        }
        for (key, item) in object.try_iter_pairs().into_iter().flatten() {
            visits += 1;
            if visits.is_multiple_of(VISITS_PER_FUEL) {
                state.consume_fuel(1)?;
            }
            open.extend([key, item].into_iter().filter(|value| value.as_object().is_some()));
        }
    }
    Ok(value.clone())
}

/// The engine's error as one of ours.
fn describe(path: &Path, error: &minijinja::Error) -> Error {
    let raised = std::error::Error::source(error).is_some_and(|source| source.is::<Raised>());
    let reason = match error.detail() {
        Some(message) if raised => message.to_owned(),
        _ if error.kind() == ErrorKind::OutOfFuel => format!("it takes more than {FUEL} units of work or memory"),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    Error::Template { path: path.to_path_buf(), line: error.line(), reason: printable(&reason) }
}

/// A message of bounded length on one line.
fn printable(text: &str) -> String {
    let mut printable = String::new();
    for c in text.chars().take(MAX_MESSAGE) {
        if c.is_control() { printable.extend(c.escape_default()) } else { printable.push(c) }
    }
    printable
}

/// A text of bounded length.
#[derive(Default)]
struct Output {
    text: Vec<u8>,
    full: bool,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::Error::other("the text is too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let engine = Engine::compile(Path::new("chat_template.jinja"), source)?;
        engine.render(|| vec![("a".to_owned(), Value::from("A"))])
    }

    fn refused(source: &str) -> String {
        render(source).unwrap_err().to_string()
    }

    #[test]
    fn blocks_are_trimmed_and_undefined_is_empty() {
        assert_eq!(render("  {% if a %}\n{{ a }}{{ b }}\n  {% endif %}\nend\n").unwrap(), "A\nend");
        let counted = render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}");
        assert_eq!(counted.unwrap(), "01");
        assert_eq!(render("{{ '<&>' }}{{ a|tojson }}").unwrap(), "<&>\"A\"");
    }

    #[test]
    fn errors_name_file_and_line() {
        let syntax = refused("\n{% if %}");
        assert!(syntax.starts_with("chat_template.jinja: chat template, line 2: syntax error"), "{syntax}");
        let raised = refused("\n\n{{ raise_exception('roles\nmust alternate') }}");
        assert_eq!(raised, "chat_template.jinja: chat template, line 3: roles\\nmust alternate");
        assert!(refused("{{ b.c }}").contains("line 1: undefined value: `b` is undefined"), "{}", refused("{{ b.c }}"));
        assert!(refused("{% include 'x' %}").contains("unknown statement include"));
    }

    #[test]
    fn work_memory_and_output_are_bounded() {
        let forever = "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}";
        assert!(refused(forever).contains("more than 2000000 units"));
        let doubled = format!("{{% set x = 'x' %}}{}", "{% set x = x ~ x %}".repeat(60));
        assert!(refused(&doubled).contains("more than 2000000 units"));
        let long = format!("{{% set x = 'x' * {} %}}{}", 1 << 20, "{{ x }}".repeat(17));
        assert!(refused(&long).contains("longer than 16777216 bytes"), "{}", refused(&long));
        assert!(refused(&"a".repeat(MAX_SOURCE + 1)).contains("expected at most 1048576"));
        assert!(refused("{{ [1]|tojson(indent=1000000000000) }}").contains("JSON of more than"));
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_is_lost() {
        let deep = format!("{{% set x = [] %}}{}{{{{ x }}}}", "{% set x = [x] %}".repeat(20_000));
        assert_eq!(render(&deep).unwrap().len(), 40_002);
        let chain = format!("{{{{ a{} }}}}", "|string".repeat(8000));
        assert_eq!(render(&chain).unwrap(), "A");
        let elif = format!("{{% if b %}}{}{{% else %}}x{{% endif %}}", "{% elif b %}".repeat(50_000));
        assert_eq!(render(&elif).unwrap(), "x");
    }

    #[test]
    fn a_namespace_cannot_hold_itself() {
        for source in [
            "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
            "{% set ns = namespace() %}{% set ns.a = [{'b': (1, ns)}] %}{{ ns }}",
            "{% set ns = namespace() %}{% set ns.a | default(ns, true) %}{% endset %}{{ ns }}",
        ] {
            assert!(refused(source).contains("cannot be stored in a namespace"), "{}", refused(source));
        }
        assert_eq!(render("{% set ns = namespace(n=[]) %}{% set ns.n = ns.n + [a] %}{{ ns.n }}").unwrap(), "['A']");
    }
}

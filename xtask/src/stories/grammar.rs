//! The grammar of the stories: from its files to texts. `models/stories/README.md` describes the notation.
//!
//! A text with `{…}` in it is a template. What stands in the braces is a choice if it has a `|`, else a variable of the
//! story, an attribute of one, or a rule; it reads with a capital where its name is written with one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::random::Random;

/// How deep rules and choices may lie in each other.
const MAX_DEPTH: usize = 16;
/// How often a story is begun anew until its length is right, or a variable until nothing else is called so.
const MAX_TRIES: usize = 1000;
/// What a placeholder without an attribute stands for.
const NAME: &str = "name";
/// The attribute that chooses the pronouns.
const SEX: &str = "sex";
/// The attribute whose words a plot may ask for.
const IS: &str = "is";
/// An alternative that is nothing.
const NOTHING: &str = "-";

/// `words.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    length: [usize; 2],
    pronouns: BTreeMap<String, BTreeMap<String, String>>,
    lists: BTreeMap<String, Vec<BTreeMap<String, String>>>,
    rules: BTreeMap<String, String>,
}

/// `plots.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plots {
    plots: Vec<PlotText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlotText {
    name: String,
    #[serde(default = "once")]
    weight: u64,
    cast: Vec<String>,
    #[serde(default)]
    things: Vec<String>,
    beats: Vec<String>,
}

fn once() -> u64 {
    1
}

/// A text with what stands in its braces.
type Template = Vec<Part>;

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Choice(Vec<Template>),
    Value { name: String, attribute: String, capital: bool },
}

/// Templates of which one is chosen, each with its weight.
type Alternatives = Vec<(u64, Template)>;

/// Somebody or something: an entry of a list, each attribute a template.
type Entry = BTreeMap<String, Template>;

/// Who or what a variable may be: its name, and the entries by list and number.
struct Draw {
    variable: String,
    list: String,
    entries: Vec<usize>,
}

struct Plot {
    name: String,
    weight: u64,
    cast: Vec<Vec<Draw>>,
    things: Vec<Draw>,
    beats: Vec<Alternatives>,
}

/// The variables of a story, each with its attributes.
type Variables = BTreeMap<String, BTreeMap<String, String>>;

/// A grammar.
pub struct Grammar {
    length: [usize; 2],
    pronouns: BTreeMap<String, BTreeMap<String, String>>,
    lists: BTreeMap<String, Vec<Entry>>,
    rules: BTreeMap<String, Alternatives>,
    plots: Vec<Plot>,
}

impl Grammar {
    /// Reads `words.toml` and `plots.toml` of a folder.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            toml::from_str(&text).with_context(|| path.display().to_string())
        }
        Self::new(read(&folder.join("words.toml"))?, read(&folder.join("plots.toml"))?)
    }

    fn new(words: Words, plots: Plots) -> Result<Self> {
        let entry = |entry: &BTreeMap<String, String>| -> Result<Entry> {
            ensure!(entry.contains_key(NAME), "an entry without a name: {entry:?}");
            entry.iter().map(|(key, text)| Ok((key.clone(), template(text)?))).collect()
        };
        let lists: BTreeMap<String, Vec<Entry>> = words
            .lists
            .iter()
            .map(|(name, entries)| Ok((name.clone(), entries.iter().map(entry).collect::<Result<_>>()?)))
            .collect::<Result<_>>()?;
        let rules = words.rules.iter().map(|(name, text)| Ok((name.clone(), alternatives(text)?)));
        let rules: BTreeMap<String, Alternatives> = rules.collect::<Result<_>>()?;
        let read = |plot: PlotText| -> Result<Plot> {
            let cast: Vec<Vec<Draw>> = plot.cast.iter().map(|text| draws(text, &words.lists)).collect::<Result<_>>()?;
            let things: Vec<Vec<Draw>> =
                plot.things.iter().map(|text| draws(text, &words.lists)).collect::<Result<_>>()?;
            let beats: Vec<Alternatives> = plot.beats.iter().map(|text| alternatives(text)).collect::<Result<_>>()?;
            ensure!(!cast.is_empty() && !beats.is_empty(), "no cast, or no beats");
            Ok(Plot {
                name: plot.name,
                weight: plot.weight,
                cast,
                things: things.into_iter().flatten().collect(),
                beats,
            })
        };
        let plots = plots.plots.into_iter().map(|plot| {
            let name = plot.name.clone();
            read(plot).with_context(|| format!("the plot `{name}`"))
        });
        let plots: Vec<Plot> = plots.collect::<Result<_>>()?;
        ensure!(plots.iter().any(|plot| plot.weight > 0), "no plots");
        Ok(Self { length: words.length, pronouns: words.pronouns, lists, rules, plots })
    }

    /// A story.
    pub fn story(&self, random: &mut Random) -> Result<String> {
        let plots: Vec<(u64, &Plot)> = self.plots.iter().map(|plot| (plot.weight, plot)).collect();
        let plot = *weighted(&plots, random)?;
        let told = (0..MAX_TRIES).map(|_| self.tell(plot, random));
        for story in told {
            let story = story.with_context(|| format!("the plot `{}`", plot.name))?;
            if (self.length[0]..=self.length[1]).contains(&story.split(' ').count()) {
                return Ok(story);
            }
        }
        let [least, most] = self.length;
        bail!("the plot `{}`: no story of {least} to {most} words", plot.name)
    }

    /// A story, however long it is.
    fn tell(&self, plot: &Plot, random: &mut Random) -> Result<String> {
        let mut variables = Variables::new();
        let cast = random.choose(&plot.cast).context("no cast")?;
        for draw in cast.iter().chain(&plot.things) {
            self.draw(draw, &mut variables, random)?;
        }
        let mut beats = Vec::new();
        for beat in &plot.beats {
            let text = self.expand(weighted(beat, random)?, &variables, random, 0)?;
            if !text.is_empty() {
                beats.push(capitalized(&text));
            }
        }
        Ok(polished(&beats.join(" ")))
    }

    /// Gives a variable an entry that is called otherwise than those before it.
    fn draw(&self, draw: &Draw, variables: &mut Variables, random: &mut Random) -> Result<()> {
        let list = self.lists.get(&draw.list).context("no such list")?;
        for _ in 0..MAX_TRIES {
            let entry = &list[*random.choose(&draw.entries).context("an empty list")?];
            let mut attributes = BTreeMap::new();
            for (key, text) in entry {
                attributes.insert(key.clone(), self.expand(text, variables, random, 0)?);
            }
            if variables.values().all(|other| other.get(NAME) != attributes.get(NAME)) {
                variables.insert(draw.variable.clone(), attributes);
                return Ok(());
            }
        }
        bail!("the list `{}` has no other name for `{}`", draw.list, draw.variable)
    }

    fn expand(&self, template: &[Part], variables: &Variables, random: &mut Random, depth: usize) -> Result<String> {
        ensure!(depth < MAX_DEPTH, "rules that lie more than {MAX_DEPTH} deep in each other");
        let mut text = String::new();
        for part in template {
            match part {
                Part::Text(piece) => text.push_str(piece),
                Part::Choice(choice) => {
                    let chosen = random.choose(choice).context("an empty choice")?;
                    text.push_str(&self.expand(chosen, variables, random, depth + 1)?);
                }
                Part::Value { name, attribute, capital } => {
                    let value = match variables.get(name) {
                        Some(attributes) => self.attribute(attributes, attribute)?.to_owned(),
                        None => {
                            let rule = self.rules.get(name).filter(|_| attribute == NAME);
                            let rule = rule.with_context(|| format!("neither a variable nor a rule: `{name}`"))?;
                            self.expand(weighted(rule, random)?, variables, random, depth + 1)?
                        }
                    };
                    text.push_str(&if *capital { capitalized(&value) } else { value });
                }
            }
        }
        Ok(text)
    }

    fn attribute<'a>(&'a self, attributes: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
        let pronouns = || self.pronouns.get(attributes.get(SEX)?)?.get(name);
        let value = attributes.get(name).or_else(pronouns);
        value.map(String::as_str).with_context(|| format!("`{:?}` has no `{name}`", attributes.get(NAME)))
    }
}

/// `hero: animal +small, helper: wise`: variables, and the lists that they are of, with words that `is` has or has not.
fn draws(text: &str, lists: &BTreeMap<String, Vec<BTreeMap<String, String>>>) -> Result<Vec<Draw>> {
    let draw = |text: &str| -> Result<Draw> {
        let (variable, rest) = text.split_once(':').with_context(|| format!("no list: `{text}`"))?;
        let mut words = rest.split_whitespace();
        let list = words.next().with_context(|| format!("no list: `{text}`"))?;
        let entries = lists.get(list).with_context(|| format!("there is no list `{list}`"))?;
        let mut numbers: Vec<usize> = (0..entries.len()).collect();
        for word in words {
            let (wanted, word) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(word), _) => (true, word),
                (_, Some(word)) => (false, word),
                _ => bail!("neither `+{word}` nor `-{word}`: `{text}`"),
            };
            numbers.retain(|&number| {
                let is = entries[number].get(IS).map_or("", String::as_str);
                is.split_whitespace().any(|known| known == word) == wanted
            });
        }
        ensure!(!numbers.is_empty(), "nothing is left: `{text}`");
        Ok(Draw { variable: variable.trim().to_owned(), list: list.to_owned(), entries: numbers })
    };
    text.split(',').map(draw).collect()
}

/// A line each, `*2` before one that is chosen twice as often; lines that begin with a space go on with the one before.
fn alternatives(text: &str) -> Result<Alternatives> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.trim().to_owned()),
        }
    }
    ensure!(!lines.is_empty(), "no alternatives");
    let alternative = |line: &String| -> Result<(u64, Template)> {
        let (weight, text) = match line.strip_prefix('*').and_then(|rest| rest.split_once(' ')) {
            Some((weight, text)) => (weight.parse().with_context(|| format!("no weight: `{line}`"))?, text),
            None => (1, line.as_str()),
        };
        Ok((weight, if text == NOTHING { Template::new() } else { template(text)? }))
    };
    lines.iter().map(alternative).collect()
}

/// Parses a text with braces.
fn template(text: &str) -> Result<Template> {
    let mut parts = Template::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        ensure!(rest[open..].starts_with('{'), "a brace that nothing opens: `{text}`");
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        let (inside, after) = braces(&rest[open + 1..]).with_context(|| format!("an open brace: `{text}`"))?;
        parts.push(match &inside[..] {
            [one] => value(one)?,
            several => Part::Choice(several.iter().map(|text| template(text)).collect::<Result<_>>()?),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// What stands before the brace that closes, cut at each `|` that is in no braces of its own; and what follows it.
fn braces(text: &str) -> Option<(Vec<&str>, &str)> {
    let (mut depth, mut start, mut inside) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                inside.push(&text[start..at]);
                return Some((inside, &text[at + 1..]));
            }
            '}' => depth -= 1,
            '|' if depth == 0 => {
                inside.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// `hero`, `hero.his`, or with a capital in either.
fn value(text: &str) -> Result<Part> {
    let (name, attribute) = text.split_once('.').unwrap_or((text, NAME));
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
    ensure!(word(name) && word(attribute), "not a name: `{{{text}}}`");
    let capital = [name, attribute].iter().any(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
    let small = |word: &str| word[..1].to_ascii_lowercase() + &word[1..];
    Ok(Part::Value { name: small(name), attribute: small(attribute), capital })
}

fn weighted<'a, T>(items: &'a [(u64, T)], random: &mut Random) -> Result<&'a T> {
    let total: u64 = items.iter().map(|(weight, _)| weight).sum();
    ensure!(total > 0, "nothing to choose from");
    let mut number = random.below(total);
    for (weight, item) in items {
        if number < *weight {
            return Ok(item);
        }
        number -= weight;
    }
    bail!("nothing to choose from")
}

/// The text with a capital at its beginning.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// `a` becomes `an` before a vowel, and what follows the end of a sentence gets a capital. What follows a question or
/// an exclamation in quotes may go on with the sentence and stays as it is.
fn polished(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let mut polished: Vec<String> = Vec::with_capacity(words.len());
    for (number, word) in words.iter().enumerate() {
        let before = number.checked_sub(1).map_or(".", |before| words[before]);
        let begins = before.ends_with(['.', '!', '?']) || before.ends_with(".\"");
        let mut word = if begins { capitalized(word) } else { (*word).to_owned() };
        let article = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let vowel = words.get(number + 1).is_some_and(|next| next.starts_with(['a', 'e', 'i', 'o', 'u']));
        if article.eq_ignore_ascii_case("a") && vowel {
            word.push('n');
        }
        polished.push(word);
    }
    polished.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::root;

    #[test]
    fn templates_are_read() {
        let value = |name: &str, attribute: &str, capital| Part::Value {
            name: name.into(),
            attribute: attribute.into(),
            capital,
        };
        let parts = template("a {b|{c.d} e|} {F.g}{h.I}").unwrap();
        let choice = Part::Choice(vec![
            vec![Part::Text("b".into())],
            vec![value("c", "d", false), Part::Text(" e".into())],
            vec![],
        ]);
        let expected = [Part::Text("a ".into()), choice, Part::Text(" ".into()), value("f", "g", true)];
        assert_eq!(parts[..4], expected);
        assert_eq!(parts[4], value("h", "i", true));
        for broken in ["{", "}", "{a", "a}", "{a b}", "{}", "{a|{b}"] {
            assert!(template(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn sentences_begin_with_capitals_and_articles_fit() {
        let text = "one day, a owl came. it said, \"a apple!\" and went. \"no.\" he saw a \"a\".";
        let expected = "One day, an owl came. It said, \"an apple!\" and went. \"no.\" He saw a \"a\".";
        assert_eq!(polished(text), expected);
    }

    #[test]
    fn the_grammar_tells_different_stories_without_holes() {
        let grammar = Grammar::from_folder(&root().join("models/stories/grammar")).unwrap();
        let mut random = Random::new(7);
        let stories: HashSet<String> = (0..300).map(|_| grammar.story(&mut random).unwrap()).collect();
        assert!(stories.len() > 295);
        for story in stories {
            assert!((60..=150).contains(&story.split(' ').count()), "{story}");
            assert!(!story.contains(['{', '}', '|', '*']) && !story.contains("  "), "{story}");
            assert_eq!(story.matches('"').count() % 2, 0, "{story}");
            assert!(story.ends_with(['.', '!', '"']), "{story}");
        }
        for plot in &grammar.plots {
            (0..20).for_each(|_| drop(grammar.tell(plot, &mut random).unwrap()));
        }
    }
}

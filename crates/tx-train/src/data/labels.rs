//! Labels: the names of classes, how they are read from rows, and how they are found in data.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;
use tx_core::error::{Error, Result, nearest};

use super::dataset::{Columns, Dataset};
use super::row::{Row, names};

/// The most classes: of more, each would be a class of its own.
const MAX_CLASSES: usize = 100_000;

/// The classes that rows belong to, in the order of the model's outputs.
#[derive(Debug, Clone)]
pub struct ClassLabels {
    names: Vec<String>,
    ids: HashMap<String, usize>,
    naming: Naming,
}

/// Where the names are from.
#[derive(Debug, Clone, Copy)]
enum Naming {
    /// Somebody gave them.
    Given,
    /// There are numbers only, up to the largest that was found.
    Numbers,
    /// There are places in a list, one for each class.
    Places,
}

impl PartialEq for ClassLabels {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for ClassLabels {}

impl ClassLabels {
    /// Classes by name.
    ///
    /// # Errors
    /// [`Error::Input`] if there are none, too many, or two of one name.
    pub fn new(names: Vec<String>) -> Result<Self> {
        if names.is_empty() || names.len() > MAX_CLASSES {
            return Err(Error::input("labels", names.len(), format_args!("1 to {MAX_CLASSES} names")));
        }
        let mut ids = HashMap::with_capacity(names.len());
        for (id, name) in names.iter().enumerate() {
            if ids.insert(name.clone(), id).is_some() {
                return Err(Error::input("labels", format_args!("`{name}` twice"), "different names"));
            }
        }
        Ok(Self { names, ids, naming: Naming::Given })
    }

    /// Classes that have numbers only; their names are those that HF gives them, `LABEL_0` and so on.
    ///
    /// # Errors
    /// [`Error::Input`] if there are none, or too many.
    pub fn numbered(count: usize) -> Result<Self> {
        let names = (0..count.min(MAX_CLASSES + 1)).map(|id| format!("LABEL_{id}")).collect();
        Ok(Self { naming: Naming::Numbers, ..Self::new(names)? })
    }

    /// Whether these are classes without names, of a model that has so many.
    pub fn are_some_of(&self, count: usize) -> bool {
        match self.naming {
            Naming::Given => false,
            Naming::Numbers => self.count() <= count,
            Naming::Places => self.count() == count,
        }
    }

    /// The names, in the order of the model's outputs.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many classes there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The number of a class.
    pub fn id(&self, name: &str) -> Option<usize> {
        self.ids.get(name).copied()
    }

    /// The number of the class that a value names: a text is its name, a number its number. In a format that knows only
    /// texts, a number that is no name counts as one.
    ///
    /// # Errors
    /// [`Error::Malformed`], which lists the classes, for a value that is neither.
    pub fn read(&self, row: &Row, column: &str, value: &Value) -> Result<usize> {
        if let Some(id) = value.as_str().and_then(|name| self.id(name)) {
            return Ok(id);
        }
        // Some writers know only numbers with a point.
        let whole = value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e9).map(|x| x as i64);
        match row.to_integer(value).or(whole) {
            Some(id) if (0..self.count() as i64).contains(&id) => Ok(id as usize),
            Some(_) => Err(row.wrong(column, value, format_args!("a label from 0 to {}", self.count() - 1))),
            None => {
                let known = || self.names.iter().map(String::as_str);
                let proposal = value.as_str().and_then(|name| nearest(name, known()));
                let proposal = proposal.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
                Err(row.wrong(column, value, format_args!("one of {}{proposal}", names(known()))))
            }
        }
    }
}

/// What a model for the sequence classification of a data set learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// One class per row.
    Classes(ClassLabels),
    /// Any number of classes per row.
    MultiLabel(ClassLabels),
    /// So many real numbers per row.
    Regression(usize),
}

impl Targets {
    /// What the labels in a column look like, as HF's example scripts decide: texts are names of classes (sorted), whole
    /// numbers are numbers of classes, other numbers are regression. Lists are several classes per row, or several numbers;
    /// lists of 0.0 and 1.0 say for each class whether it holds.
    ///
    /// All rows are read.
    ///
    /// # Errors
    /// Those of reading the data set; [`Error::Malformed`] for a row whose label fits none of these, or not the others.
    pub fn find(dataset: &Dataset, column: &str) -> Result<Self> {
        let mut found = Found::default();
        let mut lists: Option<bool> = None;
        let mut width: Option<usize> = None;
        let mut repeated: Option<Error> = None;
        for row in dataset.rows(&Columns::new(&[column], &[])) {
            let row = row?;
            let value = row.get(column)?;
            let list = value.as_array();
            if *lists.get_or_insert(list.is_some()) != list.is_some() {
                return Err(row.error(column, "a list in some rows and none in others"));
            }
            match list {
                None => found.add(&row, column, value)?,
                Some(items) => {
                    items.iter().try_for_each(|item| found.add(&row, column, item))?;
                    let mut classes = BTreeSet::new();
                    if items.iter().filter_map(|item| row.to_integer(item)).any(|class| !classes.insert(class)) {
                        // Where others have fractions, it is one of several numbers.
                        repeated.get_or_insert_with(|| twice(&row, column));
                    }
                    if found.real && *width.get_or_insert(items.len()) != items.len() {
                        let reason =
                            format_args!("{} numbers, where another row has {}", items.len(), width.unwrap_or(0));
                        return Err(row.error(column, reason));
                    }
                }
            }
        }
        if let Some(error) = repeated.filter(|_| !found.real) {
            return Err(error);
        }
        match (lists == Some(true), found.real) {
            (false, false) => found.classes(dataset, column).map(Self::Classes),
            (false, true) => Ok(Self::Regression(1)),
            (true, false) => found.classes(dataset, column).map(Self::MultiLabel),
            // Zeros and ones say for each class whether it holds.
            (true, true) if !found.other => {
                let classes = ClassLabels::numbered(width.unwrap_or(0))?;
                Ok(Self::MultiLabel(ClassLabels { naming: Naming::Places, ..classes }))
            }
            (true, true) => Ok(Self::Regression(width.unwrap_or(1))),
        }
    }

    /// How many outputs a model needs for this: `num_labels`.
    pub fn count(&self) -> usize {
        match self {
            Self::Classes(classes) | Self::MultiLabel(classes) => classes.count(),
            Self::Regression(count) => *count,
        }
    }
}

/// The error for a list of classes with one of them twice: most likely it is a vector.
pub(super) fn twice(row: &Row, column: &str) -> Error {
    row.error(column, "a class twice; a vector of zeros and ones is written 0.0 and 1.0")
}

/// The classes of a column of labels, or of lists of them, as for token classification: all rows are read.
///
/// # Errors
/// Those of reading the data set; [`Error::Malformed`] for a value that is neither a name nor a whole number.
pub fn find_classes(dataset: &Dataset, column: &str) -> Result<ClassLabels> {
    if let Some(classes) = dataset.classes()? {
        return ClassLabels::new(classes);
    }
    let mut found = Found::default();
    for row in dataset.rows(&Columns::new(&[column], &[])) {
        let row = row?;
        match row.get(column)? {
            Value::Array(items) => items.iter().try_for_each(|item| found.add(&row, column, item))?,
            value => found.add(&row, column, value)?,
        }
        if found.real {
            return Err(row.error(column, "a number with a fraction, expected labels"));
        }
    }
    found.classes(dataset, column)
}

/// The labels that were seen.
#[derive(Debug, Default)]
struct Found {
    /// Texts; numbers, too, as they would be written.
    names: BTreeSet<String>,
    /// The texts that are no numbers.
    has_names: bool,
    max: Option<i64>,
    /// Whether there was a number with a fraction, or a point, and one that was neither 0 nor 1.
    real: bool,
    other: bool,
}

impl Found {
    fn add(&mut self, row: &Row, column: &str, value: &Value) -> Result<()> {
        let mixed = || row.wrong(column, value, "a text in all rows, or a number in all");
        if let Some(id) = row.to_integer(value) {
            if !(0..MAX_CLASSES as i64).contains(&id) {
                let expected = format_args!("a label from 0 to {}, or the problem type regression", MAX_CLASSES - 1);
                return Err(row.wrong(column, value, expected));
            }
            if self.has_names && !row.is_untyped() {
                return Err(mixed());
            }
            self.max = self.max.max(Some(id));
            self.names.insert(id.to_string());
        } else if let Some(number) = row.to_number(value) {
            self.real = true;
            self.other |= number != 0.0 && number != 1.0;
        } else {
            let name = value.as_str().filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| row.wrong(column, value, "a label: a text or a number"))?;
            if self.max.is_some() && !row.is_untyped() {
                return Err(mixed());
            }
            self.has_names = true;
            if !self.names.contains(name) {
                self.names.insert(name.to_owned());
            }
        }
        if self.names.len() > MAX_CLASSES {
            return Err(row.error(column, format_args!("more than {MAX_CLASSES} different labels")));
        }
        Ok(())
    }

    fn classes(self, dataset: &Dataset, column: &str) -> Result<ClassLabels> {
        match self.max {
            _ if self.has_names => ClassLabels::new(self.names.into_iter().collect()),
            Some(max) => ClassLabels::numbered(max as usize + 1),
            None => {
                let file = dataset.files().first().map_or_else(|| Path::new(""), |file| &**file);
                Err(Error::malformed(file, format_args!("no labels in column `{column}`")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dataset::DatasetOptions;
    use super::*;

    fn dataset(name: &str, text: &str) -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let dataset = Dataset::open(path.to_str().unwrap(), &DatasetOptions::default()).unwrap();
        (folder, dataset)
    }

    /// Labels as JSON, one in each row.
    fn find(labels: &[&str]) -> Result<Targets> {
        let rows: Vec<String> = labels.iter().map(|label| format!("{{\"label\": {label}}}\n")).collect();
        let (_folder, dataset) = dataset("a.jsonl", &rows.concat());
        Targets::find(&dataset, "label")
    }

    fn named(names: &[&str]) -> ClassLabels {
        ClassLabels::new(names.iter().map(|&name| name.to_owned()).collect()).unwrap()
    }

    #[test]
    fn what_labels_look_like() {
        let numbered = |count| ClassLabels::numbered(count).unwrap();
        let table: [(&[&str], Targets); 10] = [
            (&["\"spam\"", "\"ham\"", "\"spam\""], Targets::Classes(named(&["ham", "spam"]))),
            (&["0", "2"], Targets::Classes(numbered(3))),
            (&["true", "false"], Targets::Classes(numbered(2))),
            (&["0.5", "1", "-3.0"], Targets::Regression(1)),
            (&["[\"b\"]", "[]", "[\"a\", \"b\"]"], Targets::MultiLabel(named(&["a", "b"]))),
            (&["[1]", "[0, 3]"], Targets::MultiLabel(numbered(4))),
            (&["[0.0, 1.0, 0.0]", "[1.0, 1.0, 0.0]"], Targets::MultiLabel(numbered(3))),
            (&["[0.5, 1.0]", "[2.0, 1.0]"], Targets::Regression(2)),
            (&["[1, 1]", "[2.5, 1]"], Targets::Regression(2)),
            (&["\"10\"", "\"9\""], Targets::Classes(named(&["10", "9"]))),
        ];
        for (labels, expected) in table {
            assert_eq!(find(labels).unwrap(), expected, "{labels:?}");
            assert_eq!(find(labels).unwrap().count(), expected.count());
        }
        let csv = |text: &str| Targets::find(&dataset("a.csv", text).1, "label").unwrap();
        assert_eq!(csv("label\n1\n0\n"), Targets::Classes(numbered(2)));
        assert_eq!(csv("label\n1.5\n0\n"), Targets::Regression(1));
        assert_eq!(csv("label\nb\n0\n"), Targets::Classes(named(&["0", "b"])));
    }

    #[test]
    fn labels_that_do_not_fit_are_named() {
        let message = |labels: &[&str]| {
            let text = find(labels).unwrap_err().to_string();
            text[text.find("a.jsonl").unwrap()..].to_owned()
        };
        let both = "expected a text in all rows, or a number in all";
        assert_eq!(message(&["1", "\"x\""]), format!("a.jsonl: line 2: column `label`: found \"x\", {both}"));
        assert_eq!(
            message(&["0", "-1"]),
            "a.jsonl: line 2: column `label`: found -1, expected a label from 0 to 99999, or the problem type regression"
        );
        assert_eq!(message(&["0", "[1]"]), "a.jsonl: line 2: column `label`: a list in some rows and none in others");
        assert!(message(&["null"]).ends_with("found null, expected a label: a text or a number"));
        assert!(message(&["[1.0, 0.0]", "[1.0]"]).ends_with("1 numbers, where another row has 2"));
        let vector = "a class twice; a vector of zeros and ones is written 0.0 and 1.0";
        assert_eq!(message(&["[0, 1]", "[0, 1, 0, 0, 1]"]), format!("a.jsonl: line 2: column `label`: {vector}"));
        assert!(find(&[]).unwrap_err().to_string().ends_with("no labels in column `label`"));
    }

    #[test]
    fn labels_are_read_by_name_and_number() {
        let rows = "{\"label\": \"ham\"}\n{\"label\": 1}\n{\"label\": 1.0}\n{\"label\": 2}\n{\"label\": \"hum\"}\n{\"label\": null}\n";
        let (_folder, dataset) = dataset("a.jsonl", rows);
        let classes = named(&["ham", "spam"]);
        let read: Vec<Result<usize>> = dataset
            .rows(&Columns::default())
            .map(|row| {
                let row = row.unwrap();
                classes.read(&row, "label", row.get("label").unwrap())
            })
            .collect();
        let shown: Vec<String> = read
            .into_iter()
            .map(|result| match result {
                Ok(id) => id.to_string(),
                Err(error) => error.to_string().split_once("column ").unwrap().1.to_owned(),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "0",
                "1",
                "1",
                "`label`: found 2, expected a label from 0 to 1",
                "`label`: found \"hum\", expected one of `ham`, `spam`; did you mean `ham`?",
                "`label`: found null, expected one of `ham`, `spam`",
            ]
        );
        assert!(ClassLabels::new(vec!["a".into(), "a".into()]).is_err() && ClassLabels::numbered(0).is_err());
    }

    #[test]
    fn classes_of_tags() {
        let rows = "{\"tags\": [\"O\", \"B-PER\"]}\n{\"tags\": []}\n{\"tags\": [\"I-PER\"]}\n";
        let (_folder, tags) = dataset("a.jsonl", rows);
        assert_eq!(find_classes(&tags, "tags").unwrap().names(), ["B-PER", "I-PER", "O"]);
        let (_folder, numbers) = dataset("a.jsonl", "{\"tags\": [0, 4]}\n");
        assert_eq!(find_classes(&numbers, "tags").unwrap().count(), 5);
    }
}

//! What a person wrote wrong: where, what, and what to do about it. All of it at once, not one a run.

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Where something stands: a file, perhaps with a line, or a variable, or a flag. Ordered by name, then line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    name: String,
    line: Option<usize>,
}

impl Place {
    /// A place without lines.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), line: None }
    }

    /// A file as a whole.
    pub fn file(path: &Path) -> Self {
        Self::new(path.display().to_string())
    }

    /// A line, from 1, of a file.
    pub fn line(path: &Path, line: usize) -> Self {
        Self { line: Some(line), ..Self::file(path) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// One thing to correct.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    place: Place,
    what: String,
}

impl Mistake {
    /// A mistake at `place`. `what` says what is wrong and what to do.
    pub fn new(place: Place, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }

    /// A mistake in the file as a whole.
    pub fn in_file(path: &Path, what: impl Into<String>) -> Self {
        Self::new(Place::file(path), what)
    }

    /// A mistake in the line, from 1, of the file.
    pub fn in_line(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self::new(Place::line(path, line), what)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Everything to correct. Never empty where it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Nothing to correct so far.
    pub fn none() -> Self {
        Self::default()
    }

    /// One more.
    pub fn add(&mut self, mistake: Mistake) {
        self.0.push(mistake);
    }

    /// The value if there is nothing to correct; else the mistakes, in the order of their places.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        self.0.sort();
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// One by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl Extend<Mistake> for Mistakes {
    fn extend<I: IntoIterator<Item = Mistake>>(&mut self, mistakes: I) {
        self.0.extend(mistakes);
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The mistakes of a TOML text's syntax.
pub fn toml_syntax(path: &Path, text: &str, errors: &[toml::de::Error]) -> Vec<Mistake> {
    let at = |error: &toml::de::Error| error.span().map_or(0, |Range { start, .. }| start);
    errors
        .iter()
        .map(|error| Mistake::in_line(path, line_of(text, at(error)), format!("not TOML: {}", error.message())))
        .collect()
}

/// The line, from 1, that byte `at` is in.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// `; did you mean …?` with the candidate nearest to the word, or nothing if none is near.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// How many bytes must be put in, taken out or changed to make one word the other (Levenshtein), case aside.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("MESSAGE", "message", 0), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_is_offered_if_it_is_near() {
        let names = ["MESSAGE", "MESSAGE_UPDATE", "KeyExpiry"];
        assert_eq!(did_you_mean("MESAGE", names), "; did you mean `MESSAGE`?");
        assert_eq!(did_you_mean("keyexpiry", names), "; did you mean `KeyExpiry`?");
        assert_eq!(did_you_mean("presence", names), "");
    }

    #[test]
    fn lines_count_from_one() {
        let text = "a\nb\n\nc";
        assert_eq!([0, 1, 2, 4, 5, 99].map(|at| line_of(text, at)), [1, 1, 2, 3, 4, 4]);
    }
}

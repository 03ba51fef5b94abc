//! The pattern language of `find`: `%` any run of characters, `_` one character, `\` makes the next one literal.

/// A text in the form in which keys are compared: each character's lower case by Unicode's table, without regard to its
/// neighbours. Both databases compare what this function made, so they agree on every letter of every script.
pub(crate) fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// The pattern for `LIKE … ESCAPE '\'` on folded keys. A `\` that ends the query is an ordinary character.
pub(crate) fn like(query: &str) -> String {
    let mut pattern = String::with_capacity(query.len() + 8);
    let mut chars = query.chars();
    let mut after_any = false;
    while let Some(c) = chars.next() {
        match c {
            // A run of them says no more than one, and costs the matcher more.
            '%' if after_any => {}
            '%' | '_' => pattern.push(c),
            '\\' => push_literal(&mut pattern, chars.next().unwrap_or('\\')),
            literal => push_literal(&mut pattern, literal),
        }
        after_any = c == '%';
    }
    pattern
}

fn push_literal(pattern: &mut String, literal: char) {
    for c in literal.to_lowercase() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_likes() {
        for (query, expected) in [
            ("", ""),
            ("%%", "%"),
            ("a%%%b", "a%b"),
            (r"50\%%", r"50\%%"),
            (r"\%%%", r"\%%"),
            (r"\\%%", r"\\%"),
            (r"a\bc", "abc"),
            (r"end\", r"end\\"),
            (r"\_x_", r"\_x_"),
            ("ÄÖ", "äö"),
        ] {
            assert_eq!(like(query), expected, "{query}");
        }
    }

    #[test]
    fn folding_knows_no_neighbours() {
        assert_eq!(fold("ΣΑΣ"), "σασ");
        assert_eq!(fold("İ").chars().count(), 2);
    }
}

//! "Did you mean": the nearest of some names to one that is unknown.

/// The nearest of `known` to `word`, unless none is near enough to be a typing error.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let folded = word.to_ascii_lowercase();
    let length = folded.chars().count();
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        let folded_name = name.to_ascii_lowercase();
        let name_length = folded_name.chars().count();
        // A third of a word may be wrong; in a name of two or three letters, one letter.
        let allowed = (name_length.max(length) / 3).clamp(1, 3);
        if name == word || length.abs_diff(name_length) > allowed {
            continue;
        }
        let distance = distance(&folded, &folded_name);
        if distance <= allowed && distance < length && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

/// How many insertions, deletions, replacements and swaps of neighbours turn `a` into `b` (optimal
/// string alignment).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "port", 4),
            ("port", "port", 0),
            ("prot", "port", 1),
            ("pot", "port", 1),
            ("ports", "port", 1),
            ("kitten", "sitting", 3),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["id", "ip", "port", "priority", "systems"];
        for (word, expected) in [
            ("prot", Some("port")),
            ("Port", Some("port")),
            ("sytsem", Some("systems")),
            ("prority", Some("priority")),
            ("x", None),
            ("interface", None),
            ("port", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}

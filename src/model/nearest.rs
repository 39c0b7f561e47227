//! The name that was probably meant.

/// The most similar of `candidates`, if one differs in few characters; of equals the first.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One change per three characters, so that short names do not match at random.
    let allowed = (name.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let changes = distance(name.as_bytes(), candidate.as_bytes(), allowed)?;
            Some((changes, candidate))
        })
        .min_by_key(|(changes, _)| *changes)
        .map(|(_, candidate)| candidate)
}

/// Number of insertions, deletions, replacements and swaps of neighbours from `a` to `b`; `None` if more than `most`.
///
/// Only a band of `2 * most + 1` cells per row can hold so small a number, so the work is linear in the length.
fn distance(a: &[u8], b: &[u8], most: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let beyond = most + 1;
    let mut before = vec![beyond; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).map(|cost| cost.min(beyond)).collect();
    let mut row = vec![beyond; b.len() + 1];
    for i in 1..=a.len() {
        let from = i.saturating_sub(most).max(1);
        let to = (i + most).min(b.len());
        row[from - 1] = if from == 1 { i.min(beyond) } else { beyond };
        for j in from..=to {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut cost = (last[j - 1] + same).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            row[j] = cost.min(beyond);
        }
        if let Some(outside) = row.get_mut(to + 1) {
            *outside = beyond;
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last.get(b.len()).copied().filter(|cost| *cost <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_slips_are_recognised() {
        let names = ["orders", "payments", "a"];
        assert_eq!(nearest("order", names), Some("orders"));
        assert_eq!(nearest("odrers", names), Some("orders"));
        assert_eq!(nearest("pyament", names), Some("payments"));
        assert_eq!(nearest("shipments-eu", names), None);
        assert_eq!(nearest("", names), Some("a"));
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }

    #[test]
    fn distance_counts_single_changes() {
        assert_eq!(distance(b"abc", b"abc", 3), Some(0));
        assert_eq!(distance(b"abcd", b"acbd", 3), Some(1));
        assert_eq!(distance(b"abc", b"xabc", 3), Some(1));
        assert_eq!(distance(b"kitten", b"sitting", 3), Some(3));
        assert_eq!(distance(b"kitten", b"sitting", 2), None);
        assert_eq!(distance(b"", b"abc", 3), Some(3));
    }
}

//! Did you mean? The known name that is nearest to an unknown one.

/// Beyond this many changes a name is another one.
const CHANGES_MOST: usize = 3;

/// The nearest of `known`, if one is near.
pub(crate) fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(unknown, name), name));
    // Half of a short name changed is no slip of the finger.
    near.filter(|(changes, name)| *changes <= CHANGES_MOST.min(name.len() / 2)).min().map(|(_, name)| name)
}

/// The name that serde's message about an unknown field or variant may have meant: it quotes the unknown one
/// first and the known ones after it.
pub(crate) fn meant(message: &str) -> Option<&str> {
    let (_, quoted) = message.split_once("unknown field ").or_else(|| message.split_once("unknown variant "))?;
    let mut names = quoted.split('`').skip(1).step_by(2);
    nearest(names.next()?, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let known = ["batch_max", "interactive_max", "ingress_max"];
        assert_eq!(nearest("batch_maxx", known), Some("batch_max"));
        assert_eq!(nearest("bacth_max", known), Some("batch_max"));
        assert_eq!(nearest("interactive", known), None);
        assert_eq!(nearest("x", ["a"]), None);
    }

    #[test]
    fn serdes_words_are_understood() {
        let message = "unknown field `batch_mx`, expected one of `interactive_max`, `batch_max`";
        assert_eq!(meant(message), Some("batch_max"));
        assert_eq!(meant("unknown variant `pakc`, expected `pack`"), Some("pack"));
        assert_eq!(meant("invalid type: string \"x\", expected u32"), None);
    }
}

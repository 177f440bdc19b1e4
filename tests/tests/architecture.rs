//! `docs/ARCHITECTURE.md` names files and folders: they exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_paths_that_the_architecture_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is inside the workspace");
    let page = root.join("docs/ARCHITECTURE.md");
    let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("read {}: {error}", page.display()));
    let named = paths(&text, root);
    assert!(named.len() > 10, "an architecture page that names {} paths: {named:?}", named.len());
    let missing: Vec<_> = named.iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md names what does not exist: {missing:?}");
}

/// What stands in backquotes and looks like a path of the repository: it begins with one of the top-level entries, or
/// it ends like a source file. Links to files count too.
fn paths(text: &str, root: &Path) -> BTreeSet<PathBuf> {
    let top: BTreeSet<String> = fs::read_dir(root)
        .expect("list the workspace")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "target" && name != ".git")
        .collect();
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    quoted
        .chain(linked)
        .filter_map(|word| {
            let word = word.trim().trim_end_matches('/').split('#').next()?;
            let first = word.split('/').next()?;
            let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
            let is_path = top.contains(first) || (word.contains('/') && word.ends_with(".rs"));
            (is_word && is_path && first != "target").then(|| PathBuf::from(word))
        })
        .collect()
}

//! The help texts that users read, pinned.

mod support;

use support::rag_tune;

fn help(arguments: &[&str]) -> String {
    rag_tune(std::path::Path::new("."), arguments).ok()
}

#[test]
fn top_level() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in [
        "augment",
        "train",
        "eval",
        "ask",
        "export",
        "merge",
        "score",
        "compare",
        "chart",
        "config",
        "inspect",
        "stability",
        "plan",
        "demo-data",
        "reproduce",
        "bench",
    ] {
        let text = help(&[command, "--help"]);
        assert!(text.contains("Example"), "{text}");
        insta::assert_snapshot!(command, text);
    }
}

#[test]
fn a_usage_error_is_exit_code_1() {
    let refusal = rag_tune(std::path::Path::new("."), &["trian"]).refused();
    assert!(refusal.contains("'train'"), "{refusal}");
}

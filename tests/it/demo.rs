//! `sallyport demo`, as a newcomer runs it.

use assert_cmd::Command;

#[test]
fn demo_shows_the_swap_three_refusals_and_a_whole_audit_chain() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sallyport")).arg("demo").timeout(std::time::Duration::from_secs(60)).output();
    let output = output.expect("the demo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["host_not_allowed", "policy_denied", "token_revoked", "the audit chain verifies", "sallyport run --"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "the demo prints nothing beside its story");
}

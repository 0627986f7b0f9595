//! Intents that are written together.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn intents_of_one_turn_are_written_once_all_are_there_and_each_gets_its_receipt() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let mut queued: Vec<_> = (0..3).map(|_| writer.queue(&bench.intent()).unwrap()).collect();
    assert!(queued.iter_mut().all(|one| poll(one).is_pending()), "the first lets the others go before it");
    assert!(writer.waiting() > 0);
    let (mut seqs, mut drafts) = (Vec::new(), Vec::new());
    for one in &mut queued {
        let Poll::Ready(Ok((receipt, draft))) = poll(one) else { panic!("it is written") };
        assert_eq!(writer.waiting(), 0, "with one call");
        seqs.push(receipt.seq());
        drafts.push(draft);
    }
    assert_eq!(seqs, [seqs[0], seqs[0] + 1, seqs[0] + 2]);
}

#[test]
fn others_do_not_wait_for_a_first_that_is_gone() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let mut first = writer.queue(&bench.intent()).unwrap();
    let mut second = writer.queue(&bench.intent()).unwrap();
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    drop(first);
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
}

#[test]
fn what_another_append_took_along_needs_no_call_of_its_own() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let mut queued = pin!(writer.queue(&bench.intent()).unwrap());
    writer.intent(&bench.intent()).unwrap();
    assert!(matches!(poll(&mut queued), Poll::Ready(Ok(_))));
}

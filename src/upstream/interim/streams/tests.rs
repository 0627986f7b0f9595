use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::super::http2::Followed;
use super::*;

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const STATUS_200: &[u8] = &[0x88];
const HINT: &[u8] = b"\x08\x03103\x00\x04link\x04</x>";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn head(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, block)
}

/// What a client writes that asks on these streams.
fn asked(streams: &[u32]) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(SETTINGS, 0, 0, &[0; 6]));
    for stream in streams {
        out.extend(head(*stream, 0, &[0x82; 20]));
        out.extend(frame(DATA, 0, *stream, &head(99, 0, b"no frame")));
        out.extend(head(*stream, END_STREAM, b"trailers"));
    }
    out
}

/// A connection of which these bytes, in pieces of this size, were written and read.
fn after(size: usize, wrote: &[u8], read: &[u8]) -> (Streams, u64) {
    let all = Rc::default();
    let mut streams = Streams::new(100, &all);
    wrote.chunks(size).for_each(|piece| streams.wrote(piece));
    for piece in read.chunks(size) {
        assert_eq!(streams.read(piece).expect("few"), None);
    }
    (streams, all.get())
}

#[test]
fn interim_replies_are_counted_at_every_cut_and_nothing_else_is() {
    let hints = |stream| head(stream, 0, HINT);
    let padded = [&[3, 0, 0, 0, 0, 16][..], HINT, &[0x08, 0x03, b'1']].concat();
    let (start, rest) = HINT.split_at(4);
    let in_parts = [
        frame(HEADERS, 0, 1, start),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, 0, 1, &rest[..1]),
        frame(CONTINUATION, END_HEADERS, 1, &rest[1..]),
    ];
    let whole = |parts: &[Vec<u8>]| parts.concat();
    for (read, count, awaited) in [
        (whole(&[hints(1), head(1, 0, STATUS_200), frame(DATA, END_STREAM, 1, &hints(1))]), 1, 2),
        // Trailers right behind the head, and a head that is all.
        (whole(&[hints(1), head(1, 0, STATUS_200), head(1, END_STREAM, b"\x00\x01a\x01b")]), 1, 2),
        (whole(&[hints(1), hints(1), head(1, END_STREAM, STATUS_200)]), 2, 2),
        (whole(&[hints(3), hints(1), hints(3), head(3, END_STREAM, STATUS_200), hints(1)]), 4, 2),
        (whole(&[head(1, PADDED | PRIORITY, &padded), head(1, PRIORITY, &[0, 0, 0, 0, 16, 0x88])]), 1, 2),
        (whole(&in_parts), 1, 3),
        (whole(&[frame(RST_STREAM, 0, 1, &[0; 4]), hints(1), hints(5), hints(7)]), 1, 2),
        // One that ends its stream is malformed, and more padding than there is, too.
        (head(1, END_STREAM, HINT), 0, 2),
        (whole(&[head(1, PADDED, &[9, 0x88]), hints(3)]), 1, 2),
        // What isn't known is passed by, and so are frames of what is carried.
        (whole(&[frame(SETTINGS, 0, 0, &hints(1)), frame(0xbe, 0xff, 1, &hints(1)), frame(DATA, 0, 1, &[])]), 0, 3),
    ] {
        for size in 1..=read.len() {
            let (streams, all) = after(size, &asked(&[1, 3, 5]), &read);
            assert_eq!((all, streams.awaited.len()), (count, awaited), "{read:02x?} in {size}");
        }
    }
}

#[test]
fn streams_that_are_reset_or_over_are_forgotten() {
    let (mut streams, _) = after(7, &asked(&[1, 3]), &[]);
    for stream in (5..4001).step_by(2) {
        streams.wrote(&head(stream, END_STREAM, &[0x82]));
        assert_eq!(streams.read(&head(stream, 0, HINT)).expect("few"), None);
        match stream % 3 {
            0 => streams.wrote(&frame(RST_STREAM, 0, stream, &[0; 4])),
            1 => drop(streams.read(&frame(RST_STREAM, 0, stream, &[0; 4])).expect("few")),
            _ => drop(streams.read(&head(stream, 0, STATUS_200)).expect("few")),
        }
        // Late ones are nobody's.
        assert_eq!(streams.read(&head(stream, 0, HINT)).expect("few"), None);
        assert_eq!(streams.awaited.len(), 2);
        assert!(streams.awaited.capacity() < 8);
    }
}

/// A stream of bytes that come in pieces of one size.
struct Pieces(Vec<u8>, usize);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = self.1.min(self.0.len()).min(buf.remaining());
        buf.put_slice(&self.0.drain(..len).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.1.min(bytes.len())))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_is_read_is_what_came_with_a_malformed_head_behind_one_too_many() {
    let hint = |stream| head(stream, 0, HINT);
    let before = [frame(SETTINGS, 0, 0, &[]), hint(3), hint(1), hint(1), hint(3), hint(1)].concat();
    let between = [hint(1), hint(3)].concat();
    let behind = [hint(1), head(5, END_STREAM, STATUS_200), frame(DATA, END_STREAM, 3, b"end")].concat();
    let malformed = |stream| head(stream, 0, &[0x88, 0x88]);
    let all = [&before[..], &malformed(1), &between, &malformed(3), &behind].concat();
    for size in 1..before.len() + between.len() + behind.len() + 1 {
        for room in [1, 2, 9, 40, 4096] {
            let count = Rc::default();
            let sent = [&before[..], &between, &behind].concat();
            let (mut followed, given_up) = Followed::new(Pieces(sent, size), 2, &count);
            followed.write_all(&asked(&[1, 3, 5])).await.expect("written");
            let (mut read, mut buf) = (Vec::new(), vec![0; room]);
            while let n @ 1.. = followed.read(&mut buf).await.expect("few") {
                read.extend_from_slice(&buf[..n]);
            }
            assert_eq!(read, all, "{size} {room}");
            assert_eq!(count.get(), 6);
            assert_eq!([(); 3].map(|()| given_up.tell()), [true, true, false]);
        }
    }
}

#[tokio::test]
async fn connection_ends_where_interim_replies_go_on() {
    let mut sent = head(1, 0, HINT).repeat(6);
    let whole = sent.len();
    sent.extend(head(1, 0, HINT));
    for size in 1..=sent.len() {
        let (mut followed, _) = Followed::new(Pieces(sent.clone(), size), 3, &Rc::default());
        followed.write_all(&asked(&[1])).await.expect("written");
        let mut read = Vec::new();
        let end = followed.read_to_end(&mut read).await.expect("up to the third");
        assert_eq!(end, whole + 11 + head(1, 0, HINT).len(), "{size}");
        let late = [head(1, 0, HINT).repeat(7), head(1, 0, HINT)].concat();
        let (mut followed, _) = Followed::new(Pieces(late, size), 3, &Rc::default());
        followed.write_all(&asked(&[1])).await.expect("written");
        assert!(followed.read_to_end(&mut read).await.is_err(), "{size}");
    }
}

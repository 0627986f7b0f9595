//! Content codings, as upstreams apply them.

use std::io::Write as _;

pub fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).expect("coded");
    encoder.finish().expect("coded")
}

pub fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).expect("coded");
    encoder.finish().expect("coded")
}

pub fn bare_deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).expect("coded");
    encoder.finish().expect("coded")
}

pub fn brotli(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
    encoder.write_all(text).expect("coded");
    drop(encoder);
    out
}

pub fn zstd(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
    zstd_safe::compress(&mut out, text, 3).expect("coded");
    out
}

/// Codes a text.
pub type Code = fn(&[u8]) -> Vec<u8>;

/// A reply in the last coding that the request asks for.
pub fn as_asked(received: &super::Received, text: &[u8]) -> super::Reply {
    let asked = received.header("accept-encoding");
    let known: [(&str, Code); 4] = [("gzip", gzip), ("deflate", zlib), ("br", brotli), ("zstd", zstd)];
    let last = asked.split(',').filter_map(|name| known.iter().find(|(known, _)| *known == name.trim())).next_back();
    match last {
        Some((name, code)) => super::Reply::text(code(text)).with("content-encoding", name),
        None => super::Reply::text(text.to_vec()),
    }
}

//! AWS's published examples: its test suite for Signature Version 4, the examples of the Amazon S3 API
//! Reference, and the key of Signature Version 4A that aws-c-auth derives.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::canonical::{self, Head};
use super::signed::{Algorithm, Scope};
use super::signer::{Signer, hash_of};
use super::*;
use crate::model::Timestamp;

const TIME: &str = "20150830T123600Z";
const S3_TIME: &str = "20130524T000000Z";

fn scope(date: &str, service: &str) -> Scope {
    Scope { date: date.to_owned(), region: Some("us-east-1".to_owned()), service: service.to_owned() }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
    }
    map
}

fn names(map: &HeaderMap) -> Vec<String> {
    let mut all: Vec<String> = map.keys().map(ToString::to_string).chain(["host".to_owned()]).collect();
    all.sort();
    all.dedup();
    all
}

fn suite(method: &Method, path: &str, query: &str, fields: &[(&str, &str)]) -> String {
    let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned());
    let map = headers(&[fields, &[("x-amz-date", TIME)]].concat());
    let head = Head { method, path, query: Some(query), headers: &map, host: "example.amazonaws.com" };
    let text = canonical::request(&head, &canonical::query(query, None), &names(&map), false) + &hash_of(b"");
    let of = scope("20150830", "service");
    Signer::new(Algorithm::Hmac, "AKIDEXAMPLE", &secret, &of).unwrap().sign(TIME, &of.to_string(), &text).unwrap()
}

#[test]
fn signatures_are_those_of_the_test_suite() {
    let get = &Method::GET;
    for (name, signature, expected) in [
        ("get-vanilla", suite(get, "/", "", &[]), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            "get-vanilla-query-order-key-case",
            suite(get, "/", "Param2=value2&Param1=value1", &[]),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "post-vanilla",
            suite(&Method::POST, "/", "", &[]),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "get-utf8",
            suite(get, "/\u{1234}", "", &[]),
            "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
        ),
        (
            "get-space",
            suite(get, "/example space/", "", &[]),
            "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
        ),
        (
            "get-slash-dot-slash",
            suite(get, "/./", "", &[]),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-relative-relative",
            suite(get, "/example1/example2/../..", "", &[]),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-unreserved",
            suite(get, "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "", &[]),
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-header-value-trim",
            suite(get, "/", "", &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")]),
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "get-header-key-duplicate",
            suite(get, "/", "", &[("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")]),
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
    ] {
        assert_eq!(signature, expected, "{name}");
    }
}

const EXAMPLE: &str =
    r#"{"access_key_id":"AKIAIOSFODNN7EXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}"#;

fn s3_now() -> Timestamp {
    Timestamp(1_369_353_600_000)
}

/// The signature that the pair of the S3 examples makes of a request that somebody else signed.
fn s3(method: &Method, path: &str, query: &str, fields: &[(&str, &str)]) -> (Resigned, Signed) {
    let pair = Pair::read(EXAMPLE.as_bytes()).unwrap();
    let mut map = headers(fields);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=ANYBODYS-STAND-IN/20130524/us-east-1/s3/aws4_request,SignedHeaders={},Signature=00",
        names(&map).join(";")
    );
    if !query.contains("X-Amz-") {
        map.insert("authorization", authorization.parse().unwrap());
    }
    let host =
        if path == "/examplebucket/chunkObject.txt" { "s3.amazonaws.com" } else { "examplebucket.s3.amazonaws.com" };
    let head = Head { method, path, query: Some(query), headers: &map, host };
    let signed = Signed::read(&head, s3_now()).unwrap();
    let payload = signed.payload().text().unwrap().to_owned();
    (pair.sign(&signed, &head, &payload).unwrap(), signed)
}

#[test]
fn requests_are_signed_again_as_in_the_s3_reference() {
    let empty = hash_of(b"");
    let get = |query: &str| s3(&Method::GET, "/", query, &[("x-amz-content-sha256", &empty), ("x-amz-date", S3_TIME)]);
    let object = [("range", "bytes=0-9"), ("x-amz-content-sha256", &empty), ("x-amz-date", S3_TIME)];
    let put = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
        ("x-amz-date", S3_TIME),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
    ];
    for (made, expected) in [
        (
            s3(&Method::GET, "/test.txt", "", &object),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            s3(&Method::PUT, "/test$file.text", "", &put),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (get("lifecycle"), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (get("max-keys=2&prefix=J"), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let authorization = made.0.authorization.unwrap();
        assert!(authorization.contains("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "));
        assert!(authorization.ends_with(&format!("Signature={expected}")), "{authorization}");
    }
    let presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A-STAND-IN%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    let query = s3(&Method::GET, "/test.txt", presigned, &[]).0.query.unwrap();
    assert!(query.contains("X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F"), "{query}");
    assert!(
        query.ends_with("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
        "{query}"
    );
    assert!(!query.contains("STAND-IN") && !query.contains("Signature=00"), "{query}");
}

/// A body in chunks, signed by the given chain; and our chain for it.
fn chunked(mut theirs: Link, sizes: &[usize], trailers: &[(&str, &str)], pad: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sign = |kind: &str, tail: String| {
        let signature = theirs.signer.sign_text(&theirs.text(kind, &tail)).unwrap();
        theirs.previous.clone_from(&signature);
        signature.clone() + &"*".repeat(pad.saturating_sub(signature.len()))
    };
    for size in sizes.iter().chain([&0]) {
        let data = vec![b'a'; *size];
        let signature = sign("-PAYLOAD", format!("{}\n{}", hash_of(b""), hash_of(&data)));
        out.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        out.extend_from_slice(&data);
        if *size > 0 {
            out.extend_from_slice(b"\r\n");
        }
    }
    if !trailers.is_empty() {
        let canonical: String = trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        for (name, value) in trailers {
            out.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        }
        let signature = sign("-TRAILER", hash_of(canonical.as_bytes()));
        out.extend_from_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn stand_in() -> Secret<String> {
    Secret::new("the-secret-of-the-agent".to_owned())
}

/// The chain of the agent, as if it had signed the head.
fn theirs(algorithm: Algorithm) -> Link {
    let region = (algorithm == Algorithm::Hmac).then(|| "us-east-1".to_owned());
    let of = Scope { region, ..scope("20130524", "s3") };
    let signer = Signer::new(algorithm, "A-STAND-IN", &stand_in(), &of).unwrap();
    Link { signer, time: S3_TIME.to_owned(), scope: of.to_string(), previous: "aa".repeat(32) }
}

fn put_in_chunks(word: &'static str, extra: &[(&'static str, &'static str)]) -> Resigned {
    let fields = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-content-sha256", word),
        ("x-amz-date", S3_TIME),
        ("x-amz-decoded-content-length", "66560"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
    ];
    s3(&Method::PUT, "/examplebucket/chunkObject.txt", "", &[&fields, extra].concat()).0
}

fn signatures(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body).into_owned();
    let after = |mark: &str| {
        let cut = |part: &str| part.chars().take_while(|c| c.is_ascii_hexdigit()).collect::<String>();
        text.split(mark).skip(1).map(cut).collect::<Vec<_>>()
    };
    [after("chunk-signature="), after("x-amz-trailer-signature:")].concat()
}

#[test]
fn chunks_are_signed_again_as_in_the_s3_reference_however_the_body_is_cut() {
    let resigned = put_in_chunks("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", &[("content-length", "66824")]);
    assert!(
        resigned.authorization.unwrap().ends_with("4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9")
    );
    let body = chunked(theirs(Algorithm::Hmac), &[65536, 1024], &[], 0);
    assert_eq!(body.len(), 66824);
    for cut in [1, 7, 1000, 66824] {
        let ours = put_in_chunks("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", &[("content-length", "66824")]).chain;
        let mut chunks = Chunks::new(theirs(Algorithm::Hmac), ours, false, 66560, 65536);
        let out: Vec<u8> = body.chunks(cut).flat_map(|piece| chunks.push(piece).unwrap()).collect();
        assert!(chunks.is_whole() && out.len() == body.len());
        assert_eq!(
            signatures(&out),
            [
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ]
        );
    }
}

#[test]
fn trailers_are_signed_again_as_in_the_s3_reference() {
    let word = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
    let resigned = put_in_chunks(word, &[("x-amz-trailer", "x-amz-checksum-crc32c")]);
    assert!(
        resigned.authorization.unwrap().ends_with("106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e")
    );
    let body = chunked(theirs(Algorithm::Hmac), &[65536, 1024], &[("x-amz-checksum-crc32c", "sOO8/Q==")], 0);
    let mut chunks = Chunks::new(theirs(Algorithm::Hmac), resigned.chain, true, 66560, 65536);
    let out = chunks.push(&body).unwrap();
    assert!(chunks.is_whole() && out.len() == body.len());
    assert_eq!(
        signatures(&out),
        [
            "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
            "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
            "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
            "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435",
        ]
    );
}

#[test]
fn body_that_isnt_what_was_signed_is_not_sent_on() {
    let good = chunked(theirs(Algorithm::Hmac), &[65536, 1024], &[], 0);
    let pass = |body: &[u8], most: usize| {
        let ours = put_in_chunks("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", &[]).chain;
        let mut chunks = Chunks::new(theirs(Algorithm::Hmac), ours, false, 66560, most);
        chunks.push(body).map(|_| chunks.is_whole())
    };
    assert_eq!(pass(&good, 65536), Ok(true));
    assert_eq!(pass(&good[..good.len() - 2], 65536), Ok(false), "without its end");
    assert_eq!(pass(&good, 65535), Err(ChunkError::TooLong));
    let mut changed = good.clone();
    changed[1000] = b'b';
    assert_eq!(pass(&changed, 65536), Err(ChunkError::Signature));
    let second = 65536 + 2 + "10000;chunk-signature=".len() + 64 + 2;
    assert_eq!(pass(&good[second..], 65536), Err(ChunkError::Signature), "the first chunk is left out");
    let longer = chunked(theirs(Algorithm::Hmac), &[65536, 1025], &[], 0);
    assert_eq!(pass(&longer, 65536), Err(ChunkError::Length));
    let shorter = chunked(theirs(Algorithm::Hmac), &[65536, 1023], &[], 0);
    assert_eq!(pass(&shorter, 65536), Err(ChunkError::Length));
    assert_eq!(pass(&[&good[..], b"x"].concat(), 65536), Err(ChunkError::Shape), "more behind its end");
    assert_eq!(pass(b"GET / HTTP/1.1\r\n\r\n", 65536), Err(ChunkError::Shape));
    assert_eq!(pass(&[b'1'; 9000], 65536), Err(ChunkError::Shape), "a line without an end");
    let trailers = chunked(theirs(Algorithm::Hmac), &[65536, 1024], &[("x-amz-checksum-crc32c", "sOO8/Q==")], 0);
    let with_trailers = |body: &[u8]| {
        let ours = put_in_chunks("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", &[]).chain;
        Chunks::new(theirs(Algorithm::Hmac), ours, true, 66560, 65536).push(body).map(|_| ())
    };
    assert_eq!(with_trailers(&trailers), Ok(()));
    let text = String::from_utf8(trailers).unwrap();
    assert_eq!(with_trailers(text.replace("sOO8", "sOO9").as_bytes()), Err(ChunkError::Signature));
    let cut = text.split("x-amz-trailer-signature").next().unwrap().to_owned() + "\r\n";
    assert_eq!(with_trailers(cut.as_bytes()), Err(ChunkError::Signature), "trailers without their signature");
}

#[test]
fn key_of_version_4a_is_the_published_one_and_signs_what_its_public_key_verifies() {
    use aws_lc_rs::signature::KeyPair as _;
    let (id, secret) = ("AKISORANDOMAASORANDOM", "q+jcrXGc+0zWN6uzclKVhvMmUsIfRPa4rlRandom");
    let of = Scope { region: None, ..scope("20150830", "service") };
    let signer = Signer::new(Algorithm::Ecdsa, id, &Secret::new(secret.to_owned()), &of).unwrap();
    let Signer::Ecdsa(pair) = &signer else { panic!("no pair") };
    let public = hex::encode_upper(pair.public_key().as_ref());
    assert_eq!(
        public,
        "0415D242CEEBF8D8169FD6A8B5A746C41140414C3B07579038DA06AF89190FFFCB0515242CEDD82E94799482E4C0514B505AFCCF2C0C98D6A553BF539F424C5EC0"
    );
    let signature = signer.sign(TIME, &of.to_string(), "text").unwrap();
    assert!(signer.is_of(TIME, &of.to_string(), "text", &signature));
    assert!(!signer.is_of(TIME, &of.to_string(), "texts", &signature));
}

#[test]
fn chunks_of_version_4a_keep_their_length() {
    let body = chunked(theirs(Algorithm::Ecdsa), &[100, 20], &[("x-amz-checksum-crc32c", "sOO8/Q==")], 144);
    let mut chunks = Chunks::new(theirs(Algorithm::Ecdsa), theirs(Algorithm::Ecdsa), true, 120, 65536);
    let out = chunks.push(&body).unwrap();
    assert!(chunks.is_whole());
    assert_eq!(out.len(), body.len());
    // What was made is verified by whoever has the same key and the same first signature.
    let mut again = Chunks::new(theirs(Algorithm::Ecdsa), theirs(Algorithm::Ecdsa), true, 120, 65536);
    assert!(again.push(&out).is_ok() && again.is_whole());
}

#[test]
fn signature_of_a_wrong_shape_is_not_read() {
    let good = "AWS4-HMAC-SHA256 Credential=ID/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=00";
    let read = |authorization: &str, query: &str, extra: &[(&str, &str)], now: Timestamp| {
        let fields =
            [("authorization", authorization), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), ("x-amz-date", S3_TIME)];
        let map = headers(&[&fields[..], extra].concat());
        let head = Head { method: &Method::GET, path: "/", query: Some(query), headers: &map, host: "h" };
        Signed::read(&head, now).map(|_| ())
    };
    assert_eq!(read(good, "", &[], s3_now()), Ok(()));
    let minutes = |n: i64| Timestamp(s3_now().millis() + n * 60_000);
    assert!(matches!(read(good, "", &[], minutes(16)), Err(Error::Time(_))));
    assert!(matches!(read(good, "", &[], minutes(-16)), Err(Error::Time(_))));
    for (authorization, query, extra) in [
        (good.replace("SHA256 ", "SHA512 "), "", vec![]),
        (good.replace("host;", ""), "", vec![]),
        (good.replace("host;", "host;range;"), "", vec![]),
        (good.replace("host;x-amz-content-sha256", "x-amz-content-sha256;host"), "", vec![]),
        (good.replace("20130524/", "20130523/"), "", vec![]),
        (good.replace("/us-east-1", ""), "", vec![]),
        (good.replace("aws4_request", "aws4_request/more"), "", vec![]),
        (good.replace("Signature=00", "Signature=00, Signature=01"), "", vec![]),
        (good.to_owned(), "X-Amz-Algorithm=AWS4-HMAC-SHA256", vec![]),
        (good.to_owned(), "X%2DAmz-Region-Set=*", vec![]),
        (good.to_owned(), "x-amz-region-set=*", vec![]),
        (good.to_owned(), "X-Amz-Expires=1&X-Amz-Expires=604800", vec![]),
        (good.to_owned(), "X-Amz-Expires&X-Amz-Expires=604800", vec![]),
        (good.to_owned(), "", vec![("x-amz-acl", "public-read")]),
        (good.to_owned(), "", vec![("x-amz-date", S3_TIME)]),
    ] {
        assert!(
            matches!(read(&authorization, query, &extra, s3_now()), Err(Error::Shape(_))),
            "{authorization} {query} {extra:?}"
        );
    }
}

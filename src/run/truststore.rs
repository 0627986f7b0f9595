//! A trust store for Java: a PKCS#12 file (RFC 7292) without a password, which every JVM since 8
//! reads.
//!
//! Certificates aren't secret and the file is as safe as the PEM bundle beside it, so it has neither
//! encryption nor a MAC. Java takes a certificate for trusted only if its bag says so by an attribute
//! of Oracle's, `trustedKeyUsage`.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// pkcs7-data: 1.2.840.113549.1.7.1 (RFC 2315 section 14).
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// certBag: 1.2.840.113549.1.12.10.1.3 (RFC 7292 section 4.2).
const CERT_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
/// x509Certificate: 1.2.840.113549.1.9.22.1 (RFC 7292 section 4.2.3).
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// friendlyName: 1.2.840.113549.1.9.20 (RFC 2985 section 5.5.1).
const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
/// trustedKeyUsage: 2.16.840.1.113894.746875.1.1 (OpenJDK, PKCS12KeyStore).
const TRUSTED_KEY_USAGE: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01];
/// anyExtendedKeyUsage: 2.5.29.37.0 (RFC 5280 section 4.2.1.12).
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const BMP: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;

/// The trust store that holds the certificates of a PEM bundle; what can't be read there is left out.
#[must_use]
pub fn pkcs12(bundle_pem: &str) -> Vec<u8> {
    let certs = CertificateDer::pem_slice_iter(bundle_pem.as_bytes()).flatten();
    let bags: Vec<u8> = certs.enumerate().flat_map(|(at, cert)| bag(&format!("ca-{at}"), &cert)).collect();
    let inner = tagged(SEQUENCE, &[data(&tagged(SEQUENCE, &[bags]))]);
    tagged(SEQUENCE, &[tagged(INTEGER, &[vec![3]]), data(&inner)])
}

/// A ContentInfo of plain data.
fn data(content: &[u8]) -> Vec<u8> {
    let octets = tagged(OCTETS, &[content.to_vec()]);
    tagged(SEQUENCE, &[tagged(OID, &[DATA.to_vec()]), tagged(EXPLICIT_0, &[octets])])
}

fn bag(alias: &str, cert: &[u8]) -> Vec<u8> {
    let oid = |bytes: &[u8]| tagged(OID, &[bytes.to_vec()]);
    let value = tagged(EXPLICIT_0, &[tagged(OCTETS, &[cert.to_vec()])]);
    let cert_bag = tagged(SEQUENCE, &[oid(X509), value]);
    let alias: Vec<u8> = alias.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let name = tagged(SEQUENCE, &[oid(FRIENDLY_NAME), tagged(SET, &[tagged(BMP, &[alias])])]);
    let trusted = tagged(SEQUENCE, &[oid(TRUSTED_KEY_USAGE), tagged(SET, &[oid(ANY_USAGE)])]);
    tagged(SEQUENCE, &[oid(CERT_BAG), tagged(EXPLICIT_0, &[cert_bag]), tagged(SET, &[name, trusted])])
}

/// A DER value: tag, length, and these parts (X.690 section 8.1).
fn tagged(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let length: usize = parts.iter().map(Vec::len).sum();
    let bytes = length.to_be_bytes();
    let digits = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or_default());
            out.extend_from_slice(digits);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_der_has_them() {
        assert_eq!(tagged(SET, &[vec![0; 3]])[..2], [0x31, 3]);
        assert_eq!(tagged(SET, &[vec![0; 127]])[..2], [0x31, 127]);
        assert_eq!(tagged(SET, &[vec![0; 128]])[..3], [0x31, 0x81, 128]);
        assert_eq!(tagged(SET, &[vec![0; 300]])[..4], [0x31, 0x82, 1, 44]);
    }
}

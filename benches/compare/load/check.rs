//! Whether an answer is right: what it must be, compared with what came, and the difference as one sentence.
//!
//! It reads the message itself: the check must cost less than the generator has to spare.

use std::fmt::Write as _;

use super::{Expect, Question};

const CNAME: u16 = 5;
const HEADER: usize = 12;

/// `None` if `message` is a right answer to the question, apart from its ID; else what is wrong with it.
pub(crate) fn mistake(question: &Question, message: &[u8]) -> Option<String> {
    let difference = difference(question, message).err()?;
    Some(format!("{}: {difference}", asked(&question.message)))
}

fn difference(question: &Question, message: &[u8]) -> Result<(), String> {
    let header = Header::read(message)?;
    if !header.response {
        return Err("what came is a query: QR is not set".to_owned());
    }
    let end = question_end(&question.message).unwrap_or(HEADER);
    if header.questions != 1 || message.get(HEADER..end) != question.message.get(HEADER..end) {
        return Err(format!("another question came back: {}", asked(message)));
    }
    match &question.expect {
        Expect::Anything => Ok(()),
        Expect::Denied { rcode } => {
            header.is("rcode", header.rcode, *rcode)?;
            header.is("TC", header.truncated, false)?;
            header.is("number of answers", header.answers, 0)?;
            // RFC 2308 section 3: without the SOA nobody can keep it.
            if matches!(rcode, 0 | 3) && header.authorities == 0 {
                return Err("there is no SOA in the authority section".to_owned());
            }
            Ok(())
        }
        Expect::Records { rcode, answers, truncated, qtype, data } => {
            header.is("rcode", header.rcode, *rcode)?;
            header.is("TC", header.truncated, *truncated)?;
            // How much is left in a truncated answer is the server's choice (RFC 2181 section 9).
            if !truncated {
                header.is("number of answers", header.answers, *answers)?;
            }
            if data.is_empty() {
                return Ok(());
            }
            let came = rdata(message, end, header.answers, *qtype).ok_or("the answer section cannot be read")?;
            same(&came, data, *truncated)
        }
    }
}

struct Header {
    response: bool,
    truncated: bool,
    rcode: u8,
    questions: u16,
    answers: u16,
    authorities: u16,
}

impl Header {
    fn read(message: &[u8]) -> Result<Self, String> {
        if message.len() < HEADER {
            return Err(format!("{} octets came, which is less than a header", message.len()));
        }
        Ok(Self {
            response: message[2] & 0x80 != 0,
            truncated: message[2] & 0x02 != 0,
            rcode: message[3] & 0x0f,
            questions: number(message, 4).unwrap_or(0),
            answers: number(message, 6).unwrap_or(0),
            authorities: number(message, 8).unwrap_or(0),
        })
    }

    fn is<T: Copy + PartialEq + std::fmt::Display>(&self, what: &str, came: T, expected: T) -> Result<(), String> {
        if came == expected {
            return Ok(());
        }
        let (rcode, answers) = (self.rcode, self.answers);
        Err(format!("the {what} is {came}, expected {expected} (rcode {rcode}, {answers} answers)"))
    }
}

/// Both are sorted; of a truncated answer what came has to be in what was expected.
fn same(came: &[Vec<u8>], expected: &[Vec<u8>], truncated: bool) -> Result<(), String> {
    if let Some(other) = came.iter().find(|data| expected.binary_search(data).is_err()) {
        return Err(format!("the rdata {} came, which was not expected", hexadecimal(other)));
    }
    if truncated || came == expected {
        return Ok(());
    }
    match expected.iter().find(|data| came.binary_search(data).is_err()) {
        Some(missing) => Err(format!("the rdata {} is missing", hexadecimal(missing))),
        None => Err("some rdata came twice".to_owned()),
    }
}

/// The sorted rdata of the answer section's records of this type, whose names are uncompressed and in lower case.
fn rdata(message: &[u8], section: usize, count: u16, wanted: u16) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::with_capacity(count.into());
    let mut at = section;
    for _ in 0..count {
        at = name(message, at, &mut Vec::new())?;
        let (rtype, length) = (number(message, at)?, number(message, at + 8)?);
        at += 10;
        let end = at + usize::from(length);
        if rtype == wanted {
            found.push(expanded(message, at, end, rtype)?);
        }
        at = end;
    }
    found.sort_unstable();
    Some(found)
}

/// One record's rdata. RFC 3597 section 4: only the types of RFC 1035 may be compressed; SRV, too, is read so.
fn expanded(message: &[u8], at: usize, end: usize, rtype: u16) -> Option<Vec<u8>> {
    const NS: u16 = 2;
    const SOA: u16 = 6;
    const PTR: u16 = 12;
    const MX: u16 = 15;
    const SRV: u16 = 33;
    let (before, names) = match rtype {
        NS | CNAME | PTR => (0, 1),
        MX => (2, 1),
        SRV => (6, 1),
        SOA => (0, 2),
        _ => (0, 0),
    };
    let mut data = message.get(at..at + before)?.to_vec();
    let mut at = at + before;
    for _ in 0..names {
        at = name(message, at, &mut data)?;
    }
    data.extend_from_slice(message.get(at..end)?);
    Some(data)
}

/// Writes the name at `at`, uncompressed and in lower case, and returns where it ends.
fn name(message: &[u8], mut at: usize, into: &mut Vec<u8>) -> Option<usize> {
    let mut end = None;
    // A name has 127 labels at most; more than as many pointers again are a loop.
    for _ in 0..256 {
        let length = *message.get(at)?;
        match length {
            0 => {
                into.push(0);
                return Some(end.unwrap_or(at + 1));
            }
            1..=63 => {
                let label = message.get(at..=at + usize::from(length))?;
                into.extend(label.iter().map(u8::to_ascii_lowercase));
                at += label.len();
            }
            _ => {
                end = end.or(Some(at + 2));
                at = usize::from(number(message, at)? & 0x3fff);
            }
        }
    }
    None
}

/// Where the question that a message begins with ends.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    let end = name(message, HEADER, &mut Vec::new())? + 4;
    (end <= message.len()).then_some(end)
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// The question of a message, for people: `web.default.svc.cluster.local type 1`.
fn asked(message: &[u8]) -> String {
    let mut labels = Vec::new();
    let Some(end) = name(message, HEADER, &mut labels) else { return "no question".to_owned() };
    let mut text = String::new();
    let mut at = 0;
    while at + 1 < labels.len() {
        let length = usize::from(labels[at]);
        let label = String::from_utf8_lossy(&labels[at + 1..=at + length]);
        _ = write!(text, "{}{label}", if at == 0 { "" } else { "." });
        at += length + 1;
    }
    let qtype = number(message, end).map_or("missing".to_owned(), |qtype| qtype.to_string());
    format!("{} type {qtype}", if text.is_empty() { "." } else { &text })
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
#[allow(unused_imports, reason = "a benchmark runs no tests: `tests/it` runs these")]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03web\x01x\0\0\x21\0\x01";
    /// Two SRV records: the second target is under a pointer, and in upper case.
    const ANSWERS: &[u8] = b"\xc0\x0c\0\x21\0\x01\0\0\0\x05\0\x0b\0\x01\0\x02\0\x50\x01a\x01x\0\
        \xc0\x0c\0\x21\0\x01\0\0\0\x05\0\x0a\0\x01\0\x02\0\x50\x01B\xc0\x10";

    fn answer(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut message = [QUESTION, ANSWERS].concat();
        (message[2], message[7]) = (0x85, 2);
        change(&mut message);
        message
    }

    fn found(expect: Expect, message: &[u8]) -> String {
        let sentence = mistake(&Question { message: QUESTION.to_vec(), expect }, message).unwrap_or_default();
        sentence.strip_prefix("web.x type 33: ").unwrap_or(&sentence).to_owned()
    }

    fn records(truncated: bool, data: &[&[u8]]) -> Expect {
        let data = data.iter().map(|data| data.to_vec()).collect();
        Expect::Records { rcode: 0, answers: 2, truncated, qtype: 33, data }
    }

    const A: &[u8] = b"\0\x01\0\x02\0\x50\x01a\x01x\0";
    const B: &[u8] = b"\0\x01\0\x02\0\x50\x01b\x01x\0";
    const C: &[u8] = b"\0\x01\0\x02\0\x50\x01c\x01x\0";

    #[test]
    fn compares_records() {
        let right = answer(|_| {});
        for expect in [records(false, &[A, B]), records(false, &[]), Expect::Anything] {
            assert_eq!(found(expect, &right), "");
        }
        assert_eq!(found(records(true, &[A, B, C]), &answer(|message| message[2] |= 2)), "", "some of it");
        for (expect, message, sentence) in [
            (records(false, &[A, C]), right.clone(), "the rdata 0001000200500162017800 came, which was not expected"),
            (records(false, &[A, B, C]), right.clone(), "the rdata 0001000200500163017800 is missing"),
            (records(false, &[A]), right.clone(), "the rdata 0001000200500162017800 came, which was not expected"),
            (
                records(false, &[A]),
                answer(|message| message.splice(QUESTION.len() + 23.., ANSWERS[..23].iter().copied()).for_each(drop)),
                "some rdata came twice",
            ),
            (records(false, &[A, B]), answer(|message| _ = message.pop()), "the answer section cannot be read"),
            (
                records(false, &[]),
                answer(|message| message[7] = 1),
                "the number of answers is 1, expected 2 (rcode 0, 1 answers)",
            ),
            (records(true, &[]), right.clone(), "the TC is false, expected true (rcode 0, 2 answers)"),
            (records(false, &[]), answer(|message| message[3] = 3), "the rcode is 3, expected 0 (rcode 3, 2 answers)"),
        ] {
            assert_eq!(found(expect, &message), sentence);
        }
    }

    #[test]
    fn compares_negative_responses() {
        let denied = |rcode, authorities| {
            answer(|message| {
                message.truncate(QUESTION.len());
                (message[3], message[7], message[9]) = (rcode, 0, authorities);
            })
        };
        for (rcode, authorities) in [(0, 1), (3, 1), (5, 0)] {
            assert_eq!(found(Expect::Denied { rcode }, &denied(rcode, authorities)), "");
        }
        for (rcode, message, sentence) in [
            (3, denied(3, 0), "there is no SOA in the authority section"),
            (3, denied(0, 1), "the rcode is 0, expected 3 (rcode 0, 0 answers)"),
            (0, answer(|_| {}), "the number of answers is 2, expected 0 (rcode 0, 2 answers)"),
        ] {
            assert_eq!(found(Expect::Denied { rcode }, &message), sentence);
        }
    }

    #[test]
    fn checks_question_of_response() {
        for (message, sentence) in [
            (vec![0; 11], "11 octets came, which is less than a header"),
            (answer(|message| message[2] = 1), "what came is a query: QR is not set"),
            (answer(|message| message[13] = b'v'), "another question came back: veb.x type 33"),
            (answer(|message| message[5] = 0), "another question came back: web.x type 33"),
            (answer(|message| message.truncate(14)), "another question came back: no question"),
        ] {
            assert_eq!(found(Expect::Anything, &message), sentence);
        }
    }

    #[test]
    fn parses_whole_names() {
        let message = [QUESTION, b"\x01B\xc0\x10\xc0\x1b"].concat();
        let mut read = Vec::new();
        assert_eq!(name(&message, 23, &mut read), Some(27));
        assert_eq!(read, b"\x01b\x01x\0");
        assert_eq!(name(&message, 27, &mut read), None, "a pointer to itself");
        assert_eq!(name(&message, message.len(), &mut read), None);
    }
}

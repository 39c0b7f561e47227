//! The language in both directions: what is written, what is read, what is refused.

use bytes::Bytes;
use proptest::prelude::*;

use super::table::{ESCAPES, LETTERS, Meaning, NUMBER_MODIFIERS, TEXT_MODIFIERS, modifiers_of};
use super::*;
use crate::model::Timestamp;
use crate::record::Header;

fn header(key: &str, value: Option<&'static [u8]>) -> Header {
    Header {
        key: key.to_owned(),
        value: value.map(Bytes::from_static),
    }
}

fn record() -> Record {
    Record {
        key: Some(Bytes::from_static(b"o-1")),
        value: Some(Bytes::from_static(b"{\"x\":1}")),
        headers: vec![header("a", Some(b"1")), header("b", None)],
        timestamp: Some(Timestamp(1_000)),
    }
}

fn located(record: &Record) -> Located<'_> {
    Located {
        topic: "orders",
        partition: PartitionId(2),
        offset: Offset::new(41).unwrap(),
        record,
        number: 7,
    }
}

fn parse(format: &str) -> RecordFormat {
    RecordFormat::parse(format).unwrap_or_else(|failure| panic!("{format}: {failure}"))
}

fn written(format: &str, record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    parse(format).write(&mut out, &located(record)).unwrap();
    out
}

fn reader(format: &str) -> RecordReader {
    RecordReader::new(&parse(format)).unwrap_or_else(|failure| panic!("{format}: {failure}"))
}

fn refused(format: &str) -> Failure {
    match RecordFormat::parse(format) {
        Err(failure) => failure,
        Ok(parsed) => RecordReader::new(&parsed).unwrap_err(),
    }
}

/// Reads everything, in pieces that are there one after the other.
fn read_all(reader: &RecordReader, input: &[u8], piece: usize) -> Result<Vec<Incoming>, Unreadable> {
    let mut records = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let is_end = end == input.len();
        let rest = Bytes::copy_from_slice(&input[start..end]);
        match reader.read(&rest, is_end) {
            _ if rest.is_empty() && is_end => return Ok(records),
            Ok(Some((incoming, used))) if !rest.is_empty() => {
                assert!(used > 0, "no progress");
                records.push(incoming);
                start += used;
            }
            Ok(_) => {
                assert!(!is_end, "the input was whole");
                end = input.len().min(end + piece);
            }
            Err(unreadable) => return Err(unreadable),
        }
    }
}

#[test]
fn letters_modifiers_and_escapes() {
    for (format, expected) in [
        ("%v\\n", "{\"x\":1}\n"),
        ("%t/%p @%o #%i", "orders/2 @41 #7"),
        ("%k(%K)=%v(%V)", "o-1(3)={\"x\":1}(7)"),
        ("%d%%\\t\\\\", "1000%\t\\"),
        ("%H:%h{%k=%v, }|", "2:a=1, b=, |"),
        ("%h{%K%k %V%v;}", "1a 11;1b -1;"),
        ("%h{\\x7d%%}", "}%}%"),
        ("caf\u{e9} %k", "caf\u{e9} o-1"),
        ("", ""),
        ("%k{hex} %k{base64} %k{json} %k{len}", "6f2d31 by0x \"o-1\" 3"),
        ("%v{json}", "\"{\\\"x\\\":1}\""),
        ("%h{%k:%v{json},}", "a:\"1\",b:null,"),
        ("%o{hex8} %o{hex64} %p{ascii}", "29 0000000000000029 2"),
        ("%d{rfc3339}", "1970-01-01T00:00:01.000Z"),
        (
            "%d{strftime[{%Y-%m-%d} %H:%M:%S %Z]}",
            "{1970-01-01} 00:00:01 UTC",
        ),
        ("%t{json}", "\"orders\""),
    ] {
        assert_eq!(written(format, &record()), expected.as_bytes(), "{format}");
    }
    assert_eq!(written("\\xff\\x00\\0", &record()), [0xff, 0, 0]);
    assert_eq!(
        written("%V{big32}%V{little16}%K{big8}", &record()),
        [0, 0, 0, 7, 7, 0, 3]
    );
}

#[test]
fn null_prints_nothing_and_has_length_minus_one() {
    let nothing = Record::default();
    assert_eq!(written("[%k|%K|%v|%V|%d]", &nothing), b"[|-1||-1|-1]");
    assert_eq!(written("[%k{hex}|%k{base64}|%k{json}]", &nothing), b"[||null]");
    assert_eq!(written("%K{big16}%V{hex8}%d{rfc3339}", &nothing), b"\xff\xffff-1");
}

#[test]
fn bytes_that_are_no_text_are_json_all_the_same() {
    let binary = Record {
        value: Some(Bytes::from_static(b"\xff\x00")),
        ..Record::default()
    };
    assert_eq!(written("%v{json}", &binary), b"{\"base64\":\"/wA=\"}");
}

#[test]
fn a_number_that_does_not_fit_is_refused_and_never_cut() {
    let long = |bytes: usize| Record {
        value: Some(Bytes::from(vec![b'x'; bytes])),
        ..Record::default()
    };
    let fits = |bytes: usize, format: &str| {
        let record = long(bytes);
        parse(format).write(&mut Vec::new(), &located(&record)).is_ok()
    };
    // All bits set are -1, so the last number is one less.
    assert!(fits(254, "%V{big8}") && !fits(255, "%V{big8}") && !fits(255, "%V{hex8}"));
    assert!(fits(65_534, "%V{little16}") && !fits(65_535, "%V{little16}"));
    let record = long(300);
    let error = parse("%V{big8}")
        .write(&mut Vec::new(), &located(&record))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "300 does not fit into '%V{big8}' of the record format"
    );
}

#[test]
fn mistakes_are_named_with_their_place_and_a_way_out() {
    for (format, column, part, hint) in [
        ("ab%q", 3, "'%q'", "%k %v"),
        ("100%", 4, "'%' at the end", "'%%'"),
        ("%v\\q", 3, "'\\q'", "backslash"),
        ("%v\\", 3, "backslash at the end", "\\\\"),
        ("\\x4", 1, "two hexadecimal", "\\x1f"),
        ("\\x+4", 1, "two hexadecimal", "\\x1f"),
        ("%h", 1, "for each header", "%h{%k=%v, }"),
        ("a%h{%k", 2, "never closed", "'}'"),
        ("%h{%o}", 4, "inside", "%k %v %K %V"),
        ("%\u{e9}", 1, "not known", "%k"),
        ("\u{e9}\u{e9}%T", 3, "'%T'", "did you mean '%t'?"),
        ("%k{bas64}", 3, "'{bas64}'", "did you mean '{base64}'?"),
        ("%k{big32}", 3, "'{big32}'", "{base64}"),
        ("%o{rfc3339}", 3, "'{rfc3339}'", "{big64}"),
        ("%t{len}", 3, "'{len}'", "{hex}"),
        ("a%k{hex", 4, "never closed", "\\x7b"),
        ("%d{strftime[%Y}", 3, "never closed with ']}'", "\\x7b"),
        ("%d{strftime[%!]}", 4, "strftime cannot", "%Y-%m-%d"),
    ] {
        let failure = RecordFormat::parse(format).unwrap_err();
        let place = format!("record format, column {column}: ");
        assert!(failure.message.starts_with(&place), "{format}: {failure}");
        assert!(failure.message.contains(part), "{format}: {failure}");
        assert!(
            failure.hint.as_ref().unwrap().contains(hint),
            "{format}: {failure}"
        );
    }
    assert_eq!(
        RecordFormat::parse("\u{e9}\t%k{bas64}\n")
            .unwrap_err()
            .to_string(),
        "error: record format, column 5: '%k' cannot be written as '{bas64}'\n  \u{e9} %k{bas64} \n      ^^^^^^^\n\
         hint: did you mean '{base64}'?"
    );
}

#[test]
fn formats_that_could_be_read_in_two_ways_are_refused() {
    for (format, column, part) in [
        ("%v", 1, "nothing says where this ends"),
        ("%k%v\\n", 1, "where the first of these ends"),
        ("%o%v\\n", 1, "where the first of these ends"),
        ("%V%v", 1, "where the first of these ends"),
        ("%k %v\\n%k\\n", 8, "twice"),
        ("%v %V\\n", 4, "stands behind what it counts"),
        ("%K %v\\n", 1, "counts '%k'"),
        ("%H %v\\n", 1, "counts '%h{...}'"),
        ("%h{%k=%v,}%v\\n", 1, "how many headers"),
        ("%H %h{%k,}%v\\n", 4, "key and its value"),
        ("%H %h{%k=%v}%v\\n", 10, "nothing says where this ends"),
        ("%k{hex}ab%v\\n", 1, "may contain what is to end it"),
        ("%o1%v\\n", 1, "may contain what is to end it"),
        ("%d{rfc3339}-%v\\n", 1, "may contain what is to end it"),
        ("%d{strftime[%Y-%m-%d %H]} %v\\n", 1, "contains what is to end it"),
        ("%d{strftime[%H:%M]} %v\\n", 1, "no time can be read"),
        ("%p %o\\n", 1, "neither '%k' nor '%v'"),
    ] {
        let failure = refused(format);
        let place = format!("record format, column {column}: ");
        assert!(
            failure.message.starts_with(&place) && failure.message.contains(part),
            "{format}: {failure}"
        );
        assert!(failure.hint.is_some() && failure.shown.is_some(), "{format}");
        assert_eq!(failure.exit.code(), 2);
    }
}

fn unreadable(format: &str, input: &[u8]) -> (usize, String) {
    let whole = read_all(&reader(format), input, usize::MAX / 2).unwrap_err();
    let cut = read_all(&reader(format), input, 1).unwrap_err();
    // What is told of what is there depends on how much of it was there.
    assert_eq!(whole.at, cut.at, "{format}");
    (whole.at, whole.what)
}

#[test]
fn input_that_is_not_as_the_format_says_is_told_with_its_byte() {
    for (format, input, at, part) in [
        (
            "%k\t%v\\n",
            &b"no tab\nk\tv\n"[..],
            6,
            "expected '\\t', but there is '\\nk\\tv\\n'",
        ),
        ("%k\t%v\\n", b"no tab", 6, "the input ends"),
        ("<%k>%v\\n", b"[k]v\n", 0, "expected '<'"),
        ("%V{big32}%v", b"\0\0\0\x05abc", 7, "2 more bytes"),
        ("%V{big32}%v", b"\0\0", 2, "2 more bytes"),
        ("%V{big32}%v", b"\x7f\xff\xff\xff", 0, "no length of a value"),
        ("%V:%v", b"x:abc", 0, "expected a number, but there is 'x'"),
        ("%V:%v", b"+3:abc", 0, "expected a number"),
        ("%k{hex} %v\\n", b"abc v\n", 0, "hexadecimal"),
        ("%v{base64}\\n", b"AB\n", 0, "base64"),
        ("%v{json}\\n", b"17\n", 0, "expected a JSON string"),
        ("%v{json}\\n", b"\"x", 0, "the input ends"),
        (
            "%V %v{json}\\n",
            b"2 \"x\"\n",
            2,
            "1 bytes, but its length was said to be 2",
        ),
        (
            "%d{rfc3339} %v\\n",
            b"soon x\n",
            0,
            "expected a time, but there is 'soon'",
        ),
        ("%p %v\\n", b"-1 x\n", 0, "no partition"),
        ("%H %h{%k=%v,}%v\\n", b"2 a=1,v\n", 7, "expected '='"),
        ("%H %h{%k=%v,}%v\\n", b"1 \xff=1,v\n", 2, "not UTF-8"),
        ("%v;\\n", b"a;\nb", 1, "expected ';\\n'"),
    ] {
        let (found, what) = unreadable(format, input);
        assert!(what.contains(part), "{format}: {what}");
        assert_eq!(found, at, "{format}: {what}");
    }
}

#[test]
fn what_stood_elsewhere_is_left_aside_and_the_last_newline_may_be_missing() {
    let read = |format: &str, input: &[u8]| read_all(&reader(format), input, 3).unwrap();
    let records = read("%t/%p@%o#%i %k=%v\\n", b"old/7@12#1 k=v\nold/8@13#2 k2=");
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].partition, Some(7));
    assert_eq!(records[1].record.key.as_deref(), Some(&b"k2"[..]));
    assert_eq!(records[1].record.value.as_deref(), Some(&b""[..]));
    assert_eq!(
        read("%v\\n", b"a\n\n").len(),
        2,
        "an empty line is an empty value"
    );
    assert_eq!(read("[%v]\\n", b"[a]\n[b]").len(), 2);
    let times = read(
        "%d{strftime[%Y-%m-%d %H:%M:%S]};%v\\n",
        b"1970-01-02 00:00:01;x\n",
    );
    assert_eq!(times[0].record.timestamp, Some(Timestamp(86_401_000)));
    let days = read("%d{strftime[%F]} %v\\n", b"1970-01-02 x\n");
    assert_eq!(days[0].record.timestamp, Some(Timestamp(86_400_000)));
}

#[test]
fn the_table_is_what_the_parser_knows_and_what_help_shows() {
    let texts = [help(Reader::Consume), help(Reader::Produce)];
    let row = |name: &str| {
        texts
            .iter()
            .all(|text| text.lines().any(|l| l.split_whitespace().next() == Some(name)))
    };
    for letter in LETTERS {
        let name = format!("%{}", letter.letter);
        assert!(row(&name), "{name}");
        let whole = if letter.meaning == Meaning::Headers {
            format!("{name}{{%k}}")
        } else {
            name.clone()
        };
        parse(&whole);
        let in_headers = RecordFormat::parse(&format!("%h{{{whole}}}"));
        assert_eq!(in_headers.is_ok(), letter.in_headers, "{name}");
        for modifier in modifiers_of(letter.meaning) {
            let modifier = modifier.replace("...", "%Y");
            parse(&format!("{name}{modifier}"));
        }
    }
    for letter in (b'!'..=b'~').map(char::from) {
        let known = LETTERS.iter().any(|entry| entry.letter == letter) || letter == '%';
        // Without its braces, %h is the one that is known and still refused.
        let parses = RecordFormat::parse(&format!("%{letter}")).is_ok() || letter == 'h';
        assert_eq!(parses, known, "%{letter}");
        let escape = ESCAPES.iter().any(|(name, _, _)| *name == letter);
        assert_eq!(
            RecordFormat::parse(&format!("\\{letter}")).is_ok(),
            escape,
            "\\{letter}"
        );
    }
    for (name, _, _) in TEXT_MODIFIERS {
        assert!(row(&format!("{{{name}}}")), "{name}");
    }
    for (name, byte, _) in ESCAPES {
        assert!(row(&format!("\\{name}")), "{name}");
        assert_eq!(written(&format!("\\{name}"), &record()), [*byte]);
    }
    for name in [
        "{ascii}",
        "{hex8}",
        "{big8}",
        "{little8}",
        "{rfc3339}",
        "{strftime[...]}",
        "%%",
        "\\xNN",
    ] {
        assert!(row(name), "{name}");
    }
    assert_eq!(NUMBER_MODIFIERS.len(), 13);
    assert!(
        texts
            .iter()
            .all(|text| text.lines().all(|line| line.len() <= 110))
    );
}

/// Formats that lose nothing: any bytes and any nulls come back.
const EXACT: [&str; 6] = [
    "%K{big32}%k%V{big32}%v%H{big16}%h{%K{big16}%k%V{big32}%v}%d{big64}%p{big32}",
    "%K %k%V %v%H %h{%K %k%V %v}%d %p\\n",
    "{\"k\":%k{json},\"v\":%v{json},\"n\":%H,\"h\":[%h{%k{json}:%v{json},}],\"d\":\"%d{rfc3339}\",\"p\":%p}\\n",
    "%t %o %i|%K{hex32}%k{hex}%V{hex32}%v{base64} %H{hex8}%h{%k{json}%V{little32}%v{hex}}%d{little64}%p{little32}\\0",
    "%K{little64}%k{base64}:%V{hex64}%v{hex},%H;%h{%K,%k;%V,%v;}%d{hex64}%p{hex32}\\n",
    "%k{len}:%k%v{len}:%v%H:%h{%k{len}:%k%v{len}:%v}%d:%p:",
];

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..12),
        "[ -~\\n\\t\"\\\\]{0,8}".prop_map(String::into_bytes),
    ];
    proptest::option::of(bytes.prop_map(Bytes::from))
}

fn any_record() -> impl Strategy<Value = Incoming> {
    let headers = proptest::collection::vec(("\\PC{0,5}", any_bytes()), 0..4);
    let times = prop_oneof![any::<i64>(), 0_i64..4_000_000_000_000];
    (any_bytes(), any_bytes(), headers, times, any::<u32>()).prop_map(
        |(key, value, headers, time, partition)| {
            let headers = headers
                .into_iter()
                .map(|(key, value)| Header { key, value })
                .collect();
            let timestamp = Some(Timestamp(time));
            Incoming {
                record: Record {
                    key,
                    value,
                    headers,
                    timestamp,
                },
                // All bits set are -1 in 32 bits, which is no partition.
                partition: Some(partition.min(u32::MAX - 1)),
            }
        },
    )
}

fn written_all(format: &RecordFormat, records: &[Incoming]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, incoming) in (1..).zip(records) {
        let located = Located {
            topic: "orders",
            partition: PartitionId(incoming.partition.unwrap_or_default()),
            offset: Offset::new(40 + i64::try_from(number).unwrap()).unwrap(),
            record: &incoming.record,
            number,
        };
        format.write(&mut out, &located).unwrap();
    }
    out
}

proptest! {
    #[test]
    fn what_a_format_with_lengths_or_json_writes_comes_back_exactly(
        records in proptest::collection::vec(any_record(), 0..4),
        format in proptest::sample::select(EXACT.to_vec()),
        piece in 1_usize..40,
    ) {
        let text = written_all(&parse(format), &records);
        prop_assert_eq!(read_all(&reader(format), &text, piece).unwrap(), records, "{}", format);
    }

    #[test]
    fn what_a_format_with_delimiters_writes_comes_back_if_it_has_none_of_them(
        records in proptest::collection::vec(("[^\t\n]{0,6}", "[^\n]{0,6}"), 0..5),
        piece in 1_usize..20,
    ) {
        let records: Vec<Incoming> = records
            .into_iter()
            .map(|(key, value)| Incoming {
                record: Record { key: Some(key.into()), value: Some(value.into()), ..Record::default() },
                partition: None,
            })
            .collect();
        for format in ["%k\\t%v\\n", "%k{hex}\t%v{base64}\\n", "%k\t%V %v"] {
            let text = written_all(&parse(format), &records);
            prop_assert_eq!(&read_all(&reader(format), &text, piece).unwrap(), &records, "{}", format);
        }
    }

    #[test]
    fn no_format_and_no_input_makes_it_panic(text in "(%[a-zA-Z]?(\\{[a-z0-9]{0,7}\\})?|[^%]|%h\\{.{0,6}\\}?){0,6}", input: Vec<u8>) {
        if let Ok(format) = RecordFormat::parse(&text) {
            let record = record();
            // Too small a width is an error, too.
            let _ = format.write(&mut Vec::new(), &located(&record));
            if let Ok(reader) = RecordReader::new(&format) {
                let _ = read_all(&reader, &input, 5);
            }
        }
    }

    #[test]
    fn text_without_signs_comes_out_as_it_is(text in "[^%\\\\]{0,40}") {
        prop_assert_eq!(written(&text, &record()), text.as_bytes());
    }
}

use std::io::Read;

use futures_util::stream;

use super::*;
use crate::exports::problem::Code;

fn body(chunks: &[&'static [u8]]) -> BoxStream<'static, Result<Bytes, String>> {
    let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect();
    stream::iter(chunks).boxed()
}

/// Receives a file while another thread reads it to its end: what the sender's side says, and what was read.
async fn both(
    length: Option<u64>,
    body: BoxStream<'static, Result<Bytes, String>>,
    limits: &Limits,
    meter: &Meter,
) -> (Result<u64, ReceiveError<String>>, Result<Vec<u8>, Error>) {
    let (feeder, mut inputs) = connect();
    let reader = tokio::task::spawn_blocking(move || {
        let mut file = inputs.next()?.unwrap();
        let mut bytes = Vec::new();
        file.bytes.read_to_end(&mut bytes).map_err(|error| Error::carried(error).unwrap())?;
        assert!(inputs.next()?.is_none());
        Ok(bytes)
    });
    let chunks = feeder.begin("json".into(), "users".into()).await.unwrap();
    drop(feeder);
    let received = super::receive(length, body, chunks, limits, meter).await;
    (received, reader.await.unwrap())
}

async fn receive(
    length: Option<u64>,
    body: BoxStream<'static, Result<Bytes, String>>,
    limits: &Limits,
    meter: &Meter,
) -> Result<u64, ReceiveError<String>> {
    let (received, read) = both(length, body, limits, meter).await;
    assert_eq!(received.is_err(), read.as_ref().is_err_and(Error::is_stopped), "a broken file must not look whole");
    received
}

fn error(outcome: Result<u64, ReceiveError<String>>) -> Error {
    match outcome {
        Err(ReceiveError::Results(error)) => error,
        other => panic!("expected an error of this room, got {other:?}"),
    }
}

#[tokio::test]
async fn a_file_arrives_whole() {
    let meter = Meter::default();
    let chunks = body(&[b"abc", b"", b"def"]);
    let (received, read) = both(Some(6), chunks, &Limits::default(), &meter).await;
    assert_eq!((received.unwrap(), read.unwrap().as_slice(), meter.bytes_read()), (6, &b"abcdef"[..], 6));
}

#[tokio::test]
async fn a_sender_waits_for_a_slow_reader() {
    let (feeder, mut inputs) = connect();
    let chunks = feeder.begin("json".into(), "users".into()).await.unwrap();
    let meter = Meter::default();
    let endless = stream::repeat(Ok::<_, String>(Bytes::from_static(&[b'x'; 1000]))).boxed();
    let limits = Limits { progress_window: Duration::from_millis(20), ..Limits::default() };
    let receiving = super::receive(None, endless, chunks, &limits, &meter);
    let still = tokio::time::timeout(Duration::from_millis(200), receiving).await;
    assert!(still.is_err(), "neither an end nor a stall: nobody reads");
    assert!(meter.bytes_read() <= 1000 * (CHUNKS_WAITING as u64 + 1), "{}", meter.bytes_read());
    assert!(tokio::task::spawn_blocking(move || inputs.next().unwrap().is_some()).await.unwrap());
}

#[tokio::test]
async fn a_reader_that_waits_is_told_to_stop() {
    let (feeder, mut inputs) = connect();
    let _chunks = feeder.begin("json".into(), "users".into()).await.unwrap();
    let stop = inputs.stop_when_dropped();
    let reader = tokio::task::spawn_blocking(move || {
        let mut file = inputs.next().unwrap().unwrap();
        file.bytes.read(&mut [0; 10]).unwrap_err()
    });
    drop(stop);
    assert!(Error::carried(reader.await.unwrap()).unwrap().is_stopped());
}

#[tokio::test]
async fn a_body_shorter_or_longer_than_announced_is_damaged() {
    for length in [5, 7] {
        let outcome = receive(Some(length), body(&[b"abc", b"def"]), &Limits::default(), &Meter::default()).await;
        let error = error(outcome);
        assert_eq!((error.code, error.fetch_again), (Code::VendorMalformedData, true), "{length}");
    }
}

#[tokio::test]
async fn the_size_cap_holds_with_and_without_an_announced_length() {
    let limits = Limits { max_file_bytes: 5, ..Limits::default() };
    let meter = Meter::default();
    let announced = error(receive(Some(6), body(&[b"abcdef"]), &limits, &meter).await);
    assert_eq!((announced.code, meter.bytes_read()), (Code::ArchiveLimitExceeded, 0));
    let found = error(receive(None, stream::repeat(Ok(Bytes::from_static(b"ab"))).boxed(), &limits, &meter).await);
    assert_eq!((found.code, found.fetch_again, meter.bytes_read()), (Code::ArchiveLimitExceeded, false, 6));
}

#[tokio::test]
async fn the_senders_own_error_is_handed_back() {
    let chunks = stream::iter([Ok(Bytes::from_static(b"a")), Err("link expired".to_owned())]).boxed();
    let outcome = receive(None, chunks, &Limits::default(), &Meter::default()).await;
    assert!(matches!(outcome, Err(ReceiveError::Vendor(error)) if error == "link expired"));
}

#[tokio::test]
async fn an_endless_drip_and_plain_silence_are_stalls() {
    let limits = Limits { min_progress_bytes: 1000, progress_window: Duration::from_millis(50), ..Limits::default() };
    let drip = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok(Bytes::from_static(b"x")), ()))
    });
    let drip = error(receive(None, drip.boxed(), &limits, &Meter::default()).await);
    assert_eq!((drip.code, drip.fetch_again), (Code::VendorStalled, true));
    let silence = error(receive(None, stream::pending().boxed(), &limits, &Meter::default()).await);
    assert_eq!(silence.code, Code::VendorStalled);
}

#[test]
fn a_slow_sender_passes_while_every_window_brings_its_minimum() {
    let start = Instant::now();
    let seconds = |n| start + Duration::from_secs(n);
    let mut pace = Pace::new(&Limits::default(), start);
    for minute in 1..=3 {
        pace.arrived(4096);
        pace.check(seconds(60 * minute)).unwrap();
    }
    pace.arrived(4095);
    pace.check(seconds(239)).unwrap();
    pace.excuse(Duration::from_secs(30));
    pace.check(seconds(269)).unwrap();
    assert_eq!(pace.check(seconds(270)).unwrap_err().code, Code::VendorStalled);
}

//! Both ends on loopback.

use super::*;

/// A server and where it listens, with what it hands in.
async fn served() -> (SocketAddr, mpsc::Receiver<Frame>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (frames, inbox) = mpsc::channel(32);
    (addr, inbox, tokio::spawn(serve(listener, frames)))
}

/// The next frame, which must be a request.
async fn request(inbox: &mut mpsc::Receiver<Frame>) -> (Vec<u8>, oneshot::Sender<Vec<u8>>) {
    match timeout(LIMIT, inbox.recv()).await.expect("in time") {
        Some(Frame::Request { data, reply }) => (data, reply),
        other => panic!("found {other:?}, expected a request"),
    }
}

#[tokio::test]
async fn the_largest_frame_comes_back() {
    let (addr, mut inbox, _server) = served().await;
    let (frames, mut answers) = mpsc::channel(1);
    let data: Vec<u8> = (0..FRAME).map(|n| n.to_le_bytes()[0]).collect();
    tokio::spawn(ask(addr, data.clone(), frames));
    let (asked, reply) = request(&mut inbox).await;
    assert!(asked == data, "the request is what was sent");
    reply.send(asked).expect("the connection waits");
    match timeout(LIMIT, answers.recv()).await.expect("in time") {
        Some(Frame::Reply(answer)) => assert!(answer == data, "the answer is what was sent"),
        other => panic!("found {other:?}, expected a reply"),
    }
}

#[tokio::test]
async fn a_refused_request_closes_the_connection_without_a_word() {
    let (addr, mut inbox, _server) = served().await;
    let (frames, mut answers) = mpsc::channel(1);
    tokio::spawn(ask(addr, b"let me in".to_vec(), frames));
    let (asked, reply) = request(&mut inbox).await;
    assert_eq!(asked, b"let me in");
    drop(reply);
    assert!(timeout(LIMIT, answers.recv()).await.expect("in time").is_none(), "no reply is handed in");
}

#[tokio::test]
async fn too_long_and_cut_off_frames_are_not_handed_in() {
    let (addr, mut inbox, _server) = served().await;
    let too_long = u32::try_from(FRAME + 1).expect("small").to_be_bytes();
    let cut_off = [&10_u32.to_be_bytes()[..], b"short"].concat();
    for bytes in [&too_long[..], &cut_off, &[0, 0]] {
        let mut stream = TcpStream::connect(addr).await.expect("a listener");
        stream.write_all(bytes).await.expect("sent");
        stream.shutdown().await.expect("closed");
        let mut rest = Vec::new();
        // A reset says the same as an end: nothing is answered.
        let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("closed in time");
        assert!(rest.is_empty(), "{bytes:?} was answered");
    }
    assert!(inbox.try_recv().is_err());
    // And the server still serves.
    let (frames, _answers) = mpsc::channel(1);
    tokio::spawn(ask(addr, Vec::new(), frames));
    assert!(request(&mut inbox).await.0.is_empty());
}

#[tokio::test]
async fn silent_peers_take_all_slots_and_give_them_back() {
    let (addr, mut inbox, _server) = served().await;
    let mut silent = Vec::new();
    for _ in 0..SERVED {
        silent.push(TcpStream::connect(addr).await.expect("a listener"));
    }
    let (frames, _answers) = mpsc::channel(1);
    tokio::spawn(ask(addr, b"late".to_vec(), frames));
    let early = timeout(Duration::from_millis(200), inbox.recv()).await;
    assert!(early.is_err(), "one more than {SERVED} was served");
    silent.pop();
    assert_eq!(request(&mut inbox).await.0, b"late");
}

#[tokio::test]
async fn nobody_to_ask_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    drop(listener);
    let (frames, mut answers) = mpsc::channel(1);
    ask(addr, Vec::new(), frames).await;
    assert!(answers.recv().await.is_none());
}

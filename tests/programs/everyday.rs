use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{mpsc, Arc, Mutex, RwLock, atomic::{AtomicUsize, Ordering}};
use std::{fs, panic, thread, time};

fn main() {
    let total = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8).map(|n| { let t = total.clone(); thread::spawn(move || { t.fetch_add(n, Ordering::SeqCst); }) }).collect();
    for one in threads { one.join().unwrap(); }
    assert_eq!(total.load(Ordering::SeqCst), 28);
    thread::scope(|s| { s.spawn(|| thread::sleep(time::Duration::from_millis(1))); });
    let (send, receive) = mpsc::channel(); thread::spawn(move || send.send(1).unwrap());
    assert_eq!(receive.recv_timeout(time::Duration::from_secs(5)).unwrap(), 1);
    let map: RwLock<HashMap<&str, Mutex<i32>>> = RwLock::new(HashMap::new());
    map.write().unwrap().insert("a", Mutex::new(1));
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"piped").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"piped");
    assert!(Command::new("sh").args(["-c", "exit 3"]).status().unwrap().code() == Some(3));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || { let (mut peer, _) = listener.accept().unwrap(); peer.write_all(b"x").unwrap(); });
    let mut got = String::new(); TcpStream::connect(address).unwrap().read_to_string(&mut got).unwrap();
    server.join().unwrap(); assert_eq!(got, "x");
    drop(TcpListener::bind("localhost:0").unwrap());
    UdpSocket::bind("127.0.0.1:0").unwrap(); UnixStream::pair().unwrap();
    fs::create_dir_all("deep/er").unwrap(); fs::write("deep/er/f", vec![1u8; 100_000]).unwrap();
    fs::copy("deep/er/f", "deep/g").unwrap(); fs::hard_link("deep/g", "deep/h").unwrap();
    assert_eq!(fs::metadata("deep/h").unwrap().len(), 100_000);
    std::io::copy(&mut fs::File::open("deep/g").unwrap(), &mut fs::File::create("deep/i").unwrap()).unwrap();
    fs::remove_dir_all("deep").unwrap();
    let caught = panic::catch_unwind(|| { let v: Vec<i32> = vec![]; v[0] });
    assert!(caught.is_err());
    println!("{}", std::backtrace::Backtrace::force_capture().to_string().len() > 0);
    println!("{:?}", thread::available_parallelism().is_ok());
    println!("fine");
}

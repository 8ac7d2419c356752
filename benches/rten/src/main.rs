//! A Rust engine for ONNX files, called as `loop.cpp` calls libtorch.
//!
//! usage: bench-rten FILE SECONDS SIZE,SIZE,… INPUT OUTPUT THREADS    raw float32 files; prints the median microseconds of a call
use rten::{ModelOptions, RunOptions, ThreadPool, Value};
use rten_tensor::{AsView, Tensor};
use std::{error::Error, fs, sync::Arc, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, seconds, sizes, input, output, threads] = words.as_slice() else {
        return Err("usage: bench-rten FILE SECONDS SIZE,SIZE,… INPUT OUTPUT THREADS".into());
    };
    let seconds: f64 = seconds.parse()?;
    let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let numbers = fs::read(input)?;
    let numbers: Vec<f32> = numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let input = Value::from(Tensor::<f32>::from_data(&sizes[..], numbers));
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(file)?;
    let options =
        RunOptions::default().with_thread_pool(Some(Arc::new(ThreadPool::with_num_threads(threads.parse()?))));
    let run = || model.run_one((&input).into(), Some(options.clone()));
    let first: Tensor<f32> = run()?.try_into()?;
    fs::write(output, first.to_vec().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds / 5.0 {
        run()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while times.len() < 3 || (last - start).as_secs_f64() < seconds {
        run()?;
        let now = Instant::now();
        times.push((now - last).as_secs_f64() * 1e6);
        last = now;
    }
    times.sort_by(f64::total_cmp);
    println!("{:.3}", times[times.len() / 2]);
    Ok(())
}

"""The demonstration behind `pure-export report`: real digits and photographs, from blocks to a judged ONNX file."""

"""safetensors files: read strictly in reader.py, written in writer.py."""

# Switchyard on a GPU:
#   docker build -t switchyard .
#   docker run --gpus all -p 8000:8000 -v switchyard:/data switchyard \
#     serve --host 0.0.0.0 --api-key "$KEY" --base Qwen/Qwen3-0.6B
# The registry and the Hub's cache live in /data. Any other command works too: train, list, ...

FROM python:3.12-slim AS wheel
WORKDIR /src
RUN pip install --no-cache-dir build==1.6.1 hatchling==1.33.0
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY adapters adapters
COPY serve serve
COPY train train
RUN python -m build --wheel --no-isolation --outdir /dist

# vLLM's own image: CUDA, torch and vLLM as its maintainers tested them together.
FROM vllm/vllm-openai:v0.32.0
COPY --from=wheel /dist/*.whl /tmp/
# What the image has stays as it is: pip may add packages, not replace these.
RUN python3 -m pip freeze | grep -iE '^(torch|vllm|transformers|fastapi|numpy)==' > /tmp/keep.txt \
    && python3 -m pip install --no-cache-dir -c /tmp/keep.txt "$(ls /tmp/lora_switchyard-*.whl)[gpu]" \
    && rm /tmp/*.whl /tmp/keep.txt
RUN useradd --uid 10001 --create-home switchyard \
    && mkdir -p /data && chown switchyard:switchyard /data
USER switchyard
ENV ADAPTERS_HOME=/data/adapters \
    HF_HOME=/data/huggingface \
    VLLM_NO_USAGE_STATS=1 \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
# Ready once the base is loaded and our resolver is in place; a large base takes minutes.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["adapters"]
CMD ["--help"]

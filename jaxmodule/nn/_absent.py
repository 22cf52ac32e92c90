"""Why some of torch.nn's packages are not here."""

QUANTIZATION = (
    "torch has deprecated it in favour of torch.ao: quantise arrays with a library made for it, such as AQT or Qwix."
)

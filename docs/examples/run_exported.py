"""Answer for one recording with an exported ONNX file, without Keras."""

import json

import numpy as np
import onnxruntime

from data_prep.labels import LEADS
from data_prep.records import read_record
from data_prep.signals import prepare
from ecg_keras.evaluation.predictions import found_classes

network = onnxruntime.InferenceSession("exported/model.onnx")
properties = network.get_modelmeta().custom_metadata_map
facts = {name: json.loads(text) for name, text in properties.items()}

record = read_record("my_recording.hea")
leads = [LEADS.index(lead) for lead in facts["leads"]]
signal = prepare(
    record.signal[:, leads],  # millivolts
    fs=record.fs,
    target_fs=facts["sampling_rate"],
    length=facts["input_length"],
    fit=facts["fit"],
)
(probabilities,) = network.run(["diagnosis"], {"signal": signal[np.newaxis]})
found = found_classes(
    probabilities[0],
    facts["thresholds"],
    single_label=facts["single_label"],
    task=facts["task"],
)
for name, probability, is_found in zip(facts["class_names"], probabilities[0], found, strict=True):
    print(f"{name:8}{probability:.3f}{' found' if is_found else ''}")

// The steps of Norse, by the kind of each header.
#pragma once
#include "../neurons/norse_adex.h"
#include "../neurons/norse_box.h"
#include "../neurons/norse_coba.h"
#include "../neurons/norse_izhikevich.h"
#include "../neurons/norse_lsnn.h"
#include "../neurons/norse_mc_refrac.h"
#include "../neurons/norse_refrac.h"
#include "entry.h"

template <class R>
const Kernels* norse(const Variant& v) {
  const int kind = v.options[0];
  switch (v.neuron) {
    case kNorseLif:
      if (kind == kNorseLi) return &Entry<NorseLif<R, kNorseLi>>::kernels;
      if (kind == kNorseLifPlain) return &Entry<NorseLif<R, kNorseLifPlain>>::kernels;
      if (kind == kNorseLifDetached) return &Entry<NorseLif<R, kNorseLifDetached>>::kernels;
      return &Entry<NorseLif<R, kNorseLifEx>>::kernels;
    case kNorseBox:
      if (kind == kNorseLiBox) return &Entry<NorseBox<R, kNorseLiBox>>::kernels;
      if (kind == kNorseLifBox) return &Entry<NorseBox<R, kNorseLifBox>>::kernels;
      if (kind == kNorseLifBoxSubtract) return &Entry<NorseBox<R, kNorseLifBoxSubtract>>::kernels;
      return &Entry<NorseBox<R, kNorseIaf>>::kernels;
    case kNorseAdEx:
      return &Entry<NorseAdEx<R>>::kernels;
    case kNorseLsnn:
      return kind ? &Entry<NorseLsnn<R, true>>::kernels : &Entry<NorseLsnn<R, false>>::kernels;
    case kNorseIzhikevich:
      return &Entry<NorseIzhikevich<R>>::kernels;
    case kNorseRefrac:
      return kind ? &Entry<NorseRefrac<R, NorseLif<R, kNorseLifDetached>, true>>::kernels
                  : &Entry<NorseRefrac<R, NorseLif<R, kNorseLifDetached>, false>>::kernels;
    case kNorseAdExRefrac:
      return &Entry<NorseRefrac<R, NorseAdEx<R>, false>>::kernels;
    case kNorseMcRefrac:
      return &Entry<NorseMcRefrac<R>>::kernels;
    case kNorseCoba:
      return &Entry<NorseCoba<R>>::kernels;
  }
  return nullptr;
}
